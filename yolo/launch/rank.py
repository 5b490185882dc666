"""The parent of one rank that mpiexec or srun starts, as `deepspeed.launcher.launch` is of a host's ranks.

It tells the rank its number as DeepSpeed's launcher would. If the rank is killed, it writes that down: mpiexec's exit code may
be that of another rank. As mpiexec ends the others at once, it lets them write one more heartbeat first, so that the rank
that failed is known by the oldest message (`failure`). Needs no torch.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from types import FrameType

from yolo.launch.parent_death import die_with_parent
from yolo.training.resilience.rank_status import RankStatusFile

VARIABLES = {
    "RANK": ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"),
    "WORLD_SIZE": ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"),
    "LOCAL_RANK": ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"),
}
"""What ranks read, and what MPICH, Open MPI and SLURM call it."""
HOSTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
RUN = "--run"
"""Before the run's folder, in the arguments of a training."""
HEARTBEAT_SECONDS = 2.5
"""Ranks write a heartbeat once a second."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def main(command: Sequence[str]) -> int:
    """Run `python -m command... --local_rank=N`; returns its exit code, 256 - N after signal N as DeepSpeed's launcher does."""
    die_with_parent(signal.SIGTERM)
    environment = os.environ | rank_variables(os.environ)
    module, *arguments = command
    words = [sys.executable, "-u", "-m", module, f"--local_rank={environment['LOCAL_RANK']}"]
    # MPI's launchers speak to the rank over files that it inherits.
    rank = subprocess.Popen([*words, *arguments], env=environment, close_fds=False)

    def forward(number: int, frame: FrameType | None) -> None:
        rank.send_signal(number)

    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    code = rank.wait()
    if code < 0 and RUN in arguments:
        run = Path(arguments[arguments.index(RUN) + 1])
        record = RankStatusFile(run, int(environment["MASTER_PORT"]), int(environment["RANK"]))
        record.write_exit(code)
    if code:
        time.sleep(HEARTBEAT_SECONDS)
    return code if code >= 0 else 256 + code


def rank_variables(environment: Mapping[str, str]) -> MutableMapping[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK and, under SLURM, MASTER_ADDR. Raises SystemExit if no launcher says them."""
    found: dict[str, str] = {}
    for name, sources in VARIABLES.items():
        values = [environment[source] for source in sources if source in environment]
        if not values:
            sys.exit(f"yolo: {name}: none of {', '.join(sources)} is set; expected mpiexec or srun")
        found[name] = values[0]
    hosts = [environment[source] for source in HOSTS if source in environment]
    if hosts and "MASTER_ADDR" not in environment:
        found["MASTER_ADDR"] = first_host(hosts[0])
    return found


def first_host(hosts: str) -> str:
    """The first of SLURM's list, such as node[07-09,12],login1."""
    match = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\]([^\[,]*))?", hosts)
    return "".join(part or "" for part in match.groups()) if match else hosts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
