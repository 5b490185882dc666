"""A host's link cut for a while and for good, a full disk, and images that become NaN."""

import json
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from yolo.bench.chaos.job import POLL_SECONDS, RUN_SECONDS, ChaosJob, StartedRun
from yolo.emulation.host import Host
from yolo.errors import BenchError

CUT_SECONDS = 20.0
TIMEOUT_SECONDS = 15.0
"""`communication.timeout_seconds` of the runs with a cut: less than the cut, so that the run must restart to survive it."""
MARGIN_SECONDS = 10.0
"""A run may take this much longer than the timeout to end."""
RESTARTED = "Resumed from"
"""Logged by a run that resumes from a checkpoint."""

DISK_MIB = 300
DISK_RUN = "full-disk"
FULL_SECONDS = 8.0
"""The disk stays full at least this long, and until the run has logged it."""
NOT_SAVED = "could not be saved"

NAN_RUN_SECONDS = 3600.0
SUMMED = (
    *("poisoned_micro_batches", "skipped_steps", "skipped_when_clean"),
    *("spikes", "spikes_when_clean", "rollbacks"),
)
POISON = Path(__file__).parent / "poison"


def cut_for_a_while(job: ChaosJob) -> dict[str, Any]:
    """Cut the second host off for 20 s in the middle of a run."""
    with _cut_run(job, "cut-for-a-while") as (started, host):
        time.sleep(CUT_SECONDS)
    job.log(f"{host.name} was cut off for {CUT_SECONDS:g} s")
    started.wait()
    return {
        "cut_seconds": CUT_SECONDS,
        "timeout_seconds": TIMEOUT_SECONDS,
        "finished": started.is_finished,
        "started_again": started.output.count(RESTARTED),
        "bit_identical": job.ends_as_undisturbed(started),
    }


def cut_for_good(job: ChaosJob) -> dict[str, Any]:
    """Cut the second host off for good; measures how long the run takes to end, and whether it names the host."""
    with _cut_run(job, "cut-for-good", "cluster.restarts=0") as (started, host):
        cut = time.monotonic()
        started.wait()
        seconds = time.monotonic() - cut
    job.log(f"{host.name} was cut off for good; the run ended after {seconds:.1f} s")
    last = "\n".join(started.output.splitlines()[-12:])
    return {
        "timeout_seconds": TIMEOUT_SECONDS,
        "ended_after_seconds": round(seconds, 1),
        "in_time": seconds <= TIMEOUT_SECONDS + MARGIN_SECONDS,
        "names_the_host": host.name in last,
        "last_words": last,
    }


@contextmanager
def _cut_run(job: ChaosJob, name: str, *settings: str) -> Iterator[tuple[StartedRun, Host]]:
    """Start a run; its second host is cut off within the context."""
    timeout = f"communication.timeout_seconds={TIMEOUT_SECONDS:g}"
    started = job.start(name, timeout, *settings)
    host = job.cluster.hosts[1]
    started.wait_for_a_checkpoint()
    job.cluster.cut(host)
    yield started, host
    job.cluster.restore(host)


@contextmanager
def small_disk(folder: Path, mib: int = DISK_MIB) -> Iterator[None]:
    """Mount a small disk as a new folder; do so before building a cluster, whose hosts see the mounts of that moment."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    ran = subprocess.run(mount, capture_output=True, text=True)
    if ran.returncode:
        raise BenchError(f"mount: {ran.stderr.strip()}; expected a privileged container")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def fill_disk(job: ChaosJob) -> dict[str, Any]:
    """Fill the run's disk while a checkpoint is being written, keep it full until the run logs it, then free it."""
    started = job.start(DISK_RUN)
    started.wait_for_a_checkpoint()
    if started.run is None:
        raise BenchError(f"the run on the small disk did not start: {started.output[-3000:]}")
    end = time.monotonic() + RUN_SECONDS

    def may_wait() -> bool:
        return not started.is_over and time.monotonic() < end

    while may_wait() and not started.unfinished_checkpoints():
        time.sleep(0.001)
    filler = started.work / "filler"
    fill_up(filler)
    job.log("the disk is full")
    time.sleep(FULL_SECONDS)
    while may_wait() and NOT_SAVED not in started.output:
        time.sleep(POLL_SECONDS)
    valid, output = started.valid_checkpoints(), started.output
    is_running = not started.is_over
    filler.unlink()
    job.log("the disk is free again")
    started.wait()
    return {
        "said_so": NOT_SAVED in output,
        "whole_checkpoints_while_full": sorted(valid),
        "went_on_while_full": is_running,
        "finished": started.is_finished,
        "bit_identical": job.ends_as_undisturbed(started),
    }


def fill_up(path: Path) -> None:
    """Write a file that leaves nothing free on its disk."""
    block = bytes(2**16)
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(block) == len(block):
            pass


def feed_nan(job: ChaosJob, share: float, seed: int, train_seeds: Sequence[int]) -> dict[str, Any]:
    """Train each `train.seed` once clean and once with a share of the micro batches NaN; returns sums, and AP's mean change."""
    pairs = [_train_pair(job, share, seed, train_seed) for train_seed in train_seeds]
    return {
        "share": share,
        **{name: sum(pair[name] for pair in pairs) for name in SUMMED},
        "ap_change": statistics.fmean(pair["ap"] - pair["ap_clean"] for pair in pairs),
        "pairs": pairs,
    }


def _train_pair(job: ChaosJob, share: float, seed: int, train_seed: int) -> dict[str, Any]:
    clean = job.undisturbed(train_seed, NAN_RUN_SECONDS)
    name = f"poisoned-{train_seed}"
    work = job.folder / name
    work.mkdir(parents=True, exist_ok=True)
    poison, path = f"{share}:{seed}", f"{POISON}:{job.environment['PYTHONPATH']}"
    # The launcher passes these variables on to the other hosts.
    (work / ".deepspeed_env").write_text(f"YOLO_POISON={poison}\n")
    poisoned = job.start(name, f"train.seed={train_seed}", YOLO_POISON=poison, PYTHONPATH=path)
    poisoned.wait(NAN_RUN_SECONDS)
    (before, spikes_before, nan_before), (after, spikes, nan) = map(_outcome, (clean, poisoned))
    fed = poisoned.output.count("become NaN")
    job.log(
        f"seed {train_seed}: AP {before['ap']:.4f} clean, {after['ap']:.4f} with {fed} micro batches of NaN; "
        f"{spikes_before} and {spikes} spikes skipped"
    )
    return {
        "train_seed": train_seed,
        "poisoned_micro_batches": fed,
        "skipped_steps": nan,
        "skipped_when_clean": nan_before,
        "spikes": spikes,
        "spikes_when_clean": spikes_before,
        "rollbacks": after["rollbacks"],
        "steps": after["steps"],
        "ap_clean": before["ap"],
        "ap": after["ap"],
    }


def _outcome(started: StartedRun) -> tuple[dict[str, Any], int, int]:
    """A run's summary, and how many steps it skipped as spikes and as non-finite."""
    run = started.run
    if run is None or not run.summary.exists():
        raise BenchError(f"{started.work.name} did not finish: {started.output[-3000:]}")
    lines = run.events.read_text().splitlines() if run.events.exists() else []
    skipped = [event["text"] for event in map(json.loads, lines) if event["kind"] == "skipped"]
    spikes = sum(", above " in text for text in skipped)
    summary = json.loads(run.summary.read_text())
    return summary, spikes, summary["skipped_steps"] - spikes
