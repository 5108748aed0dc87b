"""What importing a large checkpoint takes of memory.

    python benchmarks/import_checkpoint.py [--model resnet152]

Claim: the import of a checkpoint of 200 MB or more has a peak of at most 2.2 times the file, above what the process has
before. Peer: `torch.load` without mapping, `load_state_dict` and `torch.save`, as programs do it by hand.

Each side runs in a fresh process, after it has done the same with a small checkpoint, so that libraries are loaded. The
kernel's high-water mark is set back before the large one. Pages of a mapped file count, although the system may drop
them at any time; pages of the file cache do not.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from harness import in_fresh_process, print_environment, report

TARGET = 2.2


def write_checkpoint(model: str, file: Path, old: bool) -> None:
    """A checkpoint as a training program leaves it: names with `module.`, epoch and accuracy beside."""
    from anysize import create_model

    tensors = {f"module.{name}": value for name, value in create_model(model).state_dict().items()}
    held = {"epoch": 90, "arch": model, "state_dict": tensors, "best_acc1": torch.tensor(78.3)}
    torch.save(held, file, _use_new_zipfile_serialization=not old)


def by_import(model: str, file: Path, out: Path) -> None:
    from anysize import import_checkpoint

    import_checkpoint(file, model, out=out)


def by_hand(model: str, file: Path, out: Path) -> None:
    from anysize import create_model

    network = create_model(model)
    held = torch.load(file, map_location="cpu", weights_only=True)
    network.load_state_dict({name.removeprefix("module."): value for name, value in held["state_dict"].items()})
    out.mkdir()
    torch.save(network.state_dict(), out / "model.pth")


def peak(side: str, model: str, folder: Path, file: str) -> tuple[int, int]:
    """Resident bytes of the process before, and at most during the import of `file`."""
    run = {"import": by_import, "by hand": by_hand}[side]
    run("resnet8", folder / "small.pth.tar", folder / f"{side}-small-{file}")
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is resident now
    before = resident("VmRSS")
    run(model, folder / file, folder / f"{side}-{file}")
    return before, resident("VmHWM")


def resident(key: str) -> int:
    """A figure of `/proc/self/status`, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet152")
    arguments = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint("resnet8", folder / "small.pth.tar", old=False)
        for file, old in (("model.pth.tar", False), ("old.pth.tar", True)):
            in_fresh_process(write_checkpoint, {}, arguments.model, folder / file, old)
            size = (folder / file).stat().st_size
            print(f"{file}: {size / 1e6:.0f} MB, {'the format before PyTorch 1.6' if old else 'zip format'}")
            for side in ("import", "by hand"):
                before, most = in_fresh_process(peak, {}, side, arguments.model, folder, file)
                print(
                    f"  {side:8} before {before / 1e6:.0f} MB, peak {most / 1e6:.0f} MB: {(most - before) / size:.2f} "
                    f"times the file above what there was, {most / size:.2f} times in all"
                )
                if side == "import":
                    report("peak above what there was, over the file", (most - before) / size, TARGET, at_least=False)


if __name__ == "__main__":
    main()
