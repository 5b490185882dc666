"""A disk that is full while checkpoints are saved, and free again later."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolo.bench.chaos.job import POLL_SECONDS, RUN_SECONDS, ChaosRun
from yolo.errors import BenchError

DISK_MIB = 300
NAME = "full-disk"
FULL_SECONDS = 8.0
"""At least; until a run on a slow machine has said so."""
NOT_SAVED = "could not be saved"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of its own for a job's run; to be made before the cluster, whose hosts see what is mounted then."""
    work = folder / NAME
    work.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(work)]
    ran = subprocess.run(mount, capture_output=True, text=True)
    if ran.returncode:
        raise BenchError(f"mount: {ran.stderr.strip()}; expected a privileged container")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(work)], capture_output=True)


def fill_the_disk(job: ChaosRun, tell: Callable[[str], None]) -> dict[str, Any]:
    """Fill the run's disk while a checkpoint is being written, keep it full until that is told, then free it."""
    started = job.start(NAME)
    started.wait_for_a_checkpoint()
    run = started.run
    if run is None:
        raise BenchError(f"the run on the small disk did not begin: {started.said[-3000:]}")
    end = time.monotonic() + RUN_SECONDS
    while not list(run.checkpoints.glob(".*.part")) and not started.is_over:
        if time.monotonic() > end:
            break
        time.sleep(0.001)
    filler = started.work / "filler"
    _fill(filler)
    tell("the disk is full")
    time.sleep(FULL_SECONDS)
    while NOT_SAVED not in started.said and not started.is_over and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    whole, said = started.whole_checkpoints(), started.said
    is_running = not started.is_over
    filler.unlink()
    tell("the disk is free again")
    started.wait()
    is_finished = run.finished.exists()
    return {
        "said_so": NOT_SAVED in said,
        "whole_checkpoints_while_full": sorted(whole),
        "went_on_while_full": is_running,
        "finished": is_finished,
        "bit_identical": is_finished and started.weights() == job.expected_weights(),
    }


def _fill(path: Path) -> None:
    block = b"\0" * 2**16
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(block) == len(block):
                pass
        except OSError:
            return
