"""Images that become NaN: the steps are left out, and the network is as good as without."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolo.bench.chaos.job import Job
from yolo.errors import BenchError

RUN_SECONDS = 3600.0
POISON = Path(__file__).parent / "poison"


def feed_nan(job: Job, share: float, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train once clean and once with a share of the micro batches NaN; both average precisions."""
    clean = job.start("clean")
    clean.wait(RUN_SECONDS)
    poisoned_work = job.folder / "poisoned"
    poisoned_work.mkdir(parents=True, exist_ok=True)
    # The launcher hands these on to the other hosts.
    (poisoned_work / ".deepspeed_env").write_text(f"YOLO_POISON={share}:{seed}\n")
    path = f"{POISON}:{job.environment['PYTHONPATH']}"
    added = {"YOLO_POISON": f"{share}:{seed}", "PYTHONPATH": path}
    poisoned = job.start("poisoned", added=added)
    poisoned.wait(RUN_SECONDS)
    summaries = []
    for started in (clean, poisoned):
        run = started.run
        if run is None or not run.summary.exists():
            raise BenchError(f"{started.work.name} did not end: {started.said[-3000:]}")
        summaries.append(json.loads(run.summary.read_text()))
    fed = poisoned.said.count("become NaN")
    before, after = (summary["ap"] for summary in summaries)
    tell(f"AP {before:.4f} clean, {after:.4f} with {fed} micro batches of NaN")
    return {
        "share": share,
        "poisoned_micro_batches": fed,
        "skipped_steps": summaries[1]["skipped_steps"],
        "rollbacks": summaries[1]["rollbacks"],
        "steps": summaries[1]["steps"],
        "ap_clean": before,
        "ap": after,
        "skipped_when_clean": summaries[0]["skipped_steps"],
    }
