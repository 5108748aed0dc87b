"""Which process of how many this is, and where they meet, by the variables of torchrun or of Slurm's srun."""

import dataclasses
import re
from collections.abc import Mapping

from anysize.registry import UserError

_PORTS = range(20000, 60000)  # of which a Slurm job takes the one that its number names


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Which process this is, and where all of them meet."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int


def find_meeting(environment: Mapping[str, str]) -> Meeting | None:
    """Where the launcher of this process wants it to meet the others, by its variables; None: nobody launched it.

    Raises:
        UserError: some of the variables are there and others not.

    >>> find_meeting({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77",
    ...               "SLURM_STEP_NODELIST": "gpu[07-08],cpu1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"})
    Meeting(rank=5, size=8, local_rank=1, local_size=4, address='gpu07', port=20077)
    """
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "RANK" not in environment:
        job, tasks = int(environment["SLURM_JOB_ID"]), environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
        return Meeting(
            rank=int(environment["SLURM_PROCID"]),
            size=int(environment["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(environment["SLURM_LOCALID"]),
            local_size=int(re.split(r"\D", tasks)[0]),
            address=environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
            port=int(environment.get("MASTER_PORT", _PORTS[job % len(_PORTS)])),
        )
    if "RANK" not in environment or int(environment.get("WORLD_SIZE", 1)) < 2:
        return None
    lacking = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if lacking:
        raise UserError(
            f"RANK is set without {' and '.join(lacking)}; start the processes with torchrun -m anysize, with srun, or "
            "set all of RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        )
    return Meeting(
        rank=int(environment["RANK"]),
        size=int(environment["WORLD_SIZE"]),
        local_rank=int(environment.get("LOCAL_RANK", 0)),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", 1)),
        address=environment["MASTER_ADDR"],
        port=int(environment["MASTER_PORT"]),
    )


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it.

    >>> first_host("gpu[003-005,9],login1"), first_host("alone"), first_host("a1,a2")
    ('gpu003', 'alone', 'a1')
    """
    first = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    assert first is not None  # each of its parts may be empty
    return "".join(part or "" for part in first.groups())
