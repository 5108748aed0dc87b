"""The instructions of this machine's processor for int8."""

from pathlib import Path

_INSTRUCTIONS = {"amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI"}


def int8_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The names of the instructions that add up products of 8 bits in 32; none: sums saturate at 16 bits.

    Read where Linux tells them; elsewhere none are known.

    >>> set(int8_instructions()) <= {"AMX", "AVX-512 VNNI", "AVX VNNI"}
    True
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return tuple(name for flag, name in _INSTRUCTIONS.items() if flag in flags)
