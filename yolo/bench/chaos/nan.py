"""Images that become NaN: the steps are left out, and the network is as good as without."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yolo.bench.chaos.job import ChaosRun, Started
from yolo.errors import BenchError

RUN_SECONDS = 3600.0
POISON = Path(__file__).parent / "poison"


def feed_nan(
    job: ChaosRun, share: float, seed: int, train_seeds: Sequence[int], tell: Callable[[str], None]
) -> dict[str, Any]:
    """Train once clean and once with a share of the micro batches NaN, for each `train.seed`; sums, and the mean change of AP."""
    pairs = [_pair(job, share, seed, train_seed, tell) for train_seed in train_seeds]
    summed = (
        *("poisoned_micro_batches", "skipped_steps", "skipped_when_clean"),
        *("spikes", "spikes_when_clean", "rollbacks"),
    )
    return {
        "share": share,
        **{name: sum(pair[name] for pair in pairs) for name in summed},
        "ap_change": statistics.fmean(pair["ap"] - pair["ap_clean"] for pair in pairs),
        "pairs": pairs,
    }


def _pair(
    job: ChaosRun, share: float, seed: int, train_seed: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    clean = job.left_alone(train_seed, RUN_SECONDS)
    name = f"poisoned-{train_seed}"
    work = job.folder / name
    work.mkdir(parents=True, exist_ok=True)
    # The launcher hands these on to the other hosts.
    (work / ".deepspeed_env").write_text(f"YOLO_POISON={share}:{seed}\n")
    path = f"{POISON}:{job.environment['PYTHONPATH']}"
    added = {"YOLO_POISON": f"{share}:{seed}", "PYTHONPATH": path}
    poisoned = job.start(name, f"train.seed={train_seed}", added=added)
    poisoned.wait(RUN_SECONDS)
    (before, spikes_before, nan_before), (after, spikes, nan) = map(_outcome, (clean, poisoned))
    fed = poisoned.said.count("become NaN")
    tell(
        f"seed {train_seed}: AP {before['ap']:.4f} clean, {after['ap']:.4f} with {fed} micro batches of NaN; "
        f"{spikes_before} and {spikes} spikes left out"
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


def _outcome(started: Started) -> tuple[dict[str, Any], int, int]:
    """A run's summary, and how many steps it left out as spikes and because they were not finite."""
    run = started.run
    if run is None or not run.summary.exists():
        raise BenchError(f"{started.work.name} did not end: {started.said[-3000:]}")
    lines = run.events.read_text().splitlines() if run.events.exists() else []
    left_out = [event["text"] for event in map(json.loads, lines) if event["kind"] == "skipped"]
    spikes = sum(", above " in text for text in left_out)
    summary = json.loads(run.summary.read_text())
    return summary, spikes, summary["skipped_steps"] - spikes
