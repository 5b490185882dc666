"""Which MPI this machine has: its mpiexec, and the library that belongs to it. Needs neither torch nor MPI."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAMES = {"mpich": "MPICH", "openmpi": "Open MPI"}
PROGRAMS = ("mpiexec", "mpiexec.mpich", "mpiexec.openmpi", "mpirun")
LIBRARIES = {"mpich": "libmpi.so.12", "openmpi": "libmpi.so.40"}
VERSIONS = {
    "openmpi": re.compile(r"\(Open MPI\) (\S+)"),
    "mpich": re.compile(
        r"HYDRA.*?Version: *(\S+)|Intel\(R\) MPI Library.*?Version (\S+)", re.DOTALL
    ),
}
"""In what `mpiexec --version` prints. Intel's MPI has MPICH's launcher and library."""
SECONDS = 10


@dataclass(frozen=True, slots=True)
class InstalledMPI:
    """An MPI on this machine."""

    kind: str
    """mpich or openmpi."""
    version: str
    mpiexec: Path

    def __str__(self) -> str:
        return f"{NAMES[self.kind]} {self.version}"

    @property
    def library(self) -> Path | None:
        """Its library, if it lies beside its mpiexec and not where mpi4py looks first."""
        prefix = self.mpiexec.resolve().parent.parent
        if prefix == Path(sys.prefix).resolve():
            return None
        found = [*prefix.glob("lib*/" + LIBRARIES[self.kind])]
        return next(iter([*found, *prefix.glob("lib/*/" + LIBRARIES[self.kind])]), None)


def installed_mpi(kind: str | None = None) -> InstalledMPI | None:
    """The MPI beside this Python, or else the first on PATH; of one kind (mpich, openmpi) if given."""
    folders = [Path(sys.executable).parent, *map(Path, os.get_exec_path())]
    for path in dict.fromkeys(folder / name for folder in folders for name in PROGRAMS):
        if path.is_file() and (found := _identify(path)) and kind in (None, found.kind):
            return found
    return None


def has_mpi4py() -> bool:
    """Whether this Python has it."""
    return importlib.util.find_spec("mpi4py") is not None


def lacks_of_mpi(kind: str | None = None) -> Iterator[str]:
    """What the backend mpi lacks on this machine, for a kind of mpiexec, any (None), or slurm's srun."""
    if not has_mpi4py():
        yield "no mpi4py"
    if kind != "slurm" and installed_mpi(kind) is None:
        yield f"no mpiexec of {NAMES[kind]}" if kind else "no mpiexec"


@cache
def _identify(mpiexec: Path) -> InstalledMPI | None:
    try:
        ran = subprocess.run(
            [mpiexec, "--version"], capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    for kind, pattern in VERSIONS.items():
        if match := pattern.search(ran.stdout):
            return InstalledMPI(kind, match[1] or match[2], mpiexec)
    return None
