"""`python -m yolo.bench.chaos`: measure what a run survives; writes results/chaos.json."""

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from yolo.bench.chaos import faults
from yolo.bench.chaos.job import ChaosJob, processes_in
from yolo.bench.chaos.kills import kill_at_random
from yolo.bench.results import write_json
from yolo.data.demo import DemoSettings, generate_demo
from yolo.emulation.cluster import EmulatedCluster, check_rights
from yolo.errors import exit_code_of

AP_BOUND = 0.01
"""Largest mean change of the AP by NaN over the seeds, for a recipe given by --nan-recipe."""
FAULTS = ("kills", "links", "disk", "nan")
SMALL = (
    *("model.image_size=64", "train.global_batch=8", "train.epochs=20", "train.warmup_epochs=0"),
    *("evaluation.every_epochs=10", "checkpoint.every_epochs=1", "checkpoint.every_steps=2"),
    *("tracking.log_every_steps=1", "tracking.wandb.mode=disabled", "precision.dtype=fp32"),
    *("data.workers=1", "cluster.restarts=50"),
)
"""60 steps, a checkpoint after every second one; fp32 on processors is promised to be bit-identical."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Inject the requested faults; returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS), help="some of " + ", ".join(FAULTS))
    parser.add_argument(
        "--nan", type=float, default=0.03, help="share of micro batches (default 0.03)"
    )
    parser.add_argument(
        "--nan-recipe", nargs="+", metavar="RECIPE", help="train this recipe for `nan`"
    )
    parser.add_argument(
        "--nan-seeds",
        type=int,
        nargs="+",
        default=[0],
        metavar="SEED",
        help="train.seed of the runs for `nan`, a clean one and one with NaN each; overrides --nan-recipe (default 0)",
    )
    parser.add_argument(
        "--out", type=Path, default="results/chaos.json", help="default %(default)s"
    )
    options = parser.parse_args(arguments)
    options.faults = options.faults.split(",")
    if not 0 <= options.nan <= 1 or options.kills < 0 or not set(options.faults) <= set(FAULTS):
        parser.error(
            f"expected --kills of at least 0, a share for --nan, and faults of {', '.join(FAULTS)}"
        )
    kept: list[bool] = []
    code = exit_code_of(lambda: kept.append(_run(options)), "yolo.bench.chaos")
    return code or int(not all(kept))


def _run(options: argparse.Namespace) -> bool:
    check_rights()
    with tempfile.TemporaryDirectory(prefix="yolo-chaos-") as name:
        folder = Path(name)
        generate_demo(folder / "demo", DemoSettings(train_images=24, val_images=9, size=96))
        with faults.small_disk(folder / faults.DISK_RUN), EmulatedCluster(2) as cluster:
            environment = {"OMP_NUM_THREADS": "1", **cluster.open_to_ssh()}
            job = ChaosJob(cluster, folder, (f"data.root={folder / 'demo'}", *SMALL), environment)
            found = _inject_faults(job, options)
            works = [*folder.iterdir(), *folder.glob("nan/*")]
            found["left_running"] = sum(len(processes_in(work)) for work in works)
    found = {"seed": options.seed, "seconds": round(job.seconds, 1), **found}
    write_json(options.out, found)
    broken = _broken_promises(found)
    for text in broken:
        job.log(f"BROKEN: {text}")
    job.log(f"wrote {options.out}")
    return not broken


def _inject_faults(job: ChaosJob, options: argparse.Namespace) -> dict[str, Any]:
    # The undisturbed run is the reference of the other faults, too.
    number = options.kills if "kills" in options.faults else 0
    found = asdict(kill_at_random(job, number, random.Random(options.seed)))
    if "links" in options.faults:
        found["link_cut_for_a_while"] = faults.cut_for_a_while(job)
        found["link_cut_for_good"] = faults.cut_for_good(job)
    if "disk" in options.faults:
        found["disk_full"] = faults.fill_disk(job)
    if "nan" in options.faults:
        if options.nan_recipe:
            folder, (recipe, *overrides) = job.folder / "nan", options.nan_recipe
            job = replace(job, folder=folder, overrides=tuple(overrides), _undisturbed={})
            job.recipe = Path(recipe).resolve()
        found["nan"] = faults.feed_nan(job, options.nan, options.seed, options.nan_seeds)
        if options.nan_recipe:  # not for the small run, whose AP depends on every step
            found["nan"]["ap_bound"] = AP_BOUND
    return found


def _broken_promises(found: dict[str, Any]) -> list[str]:
    kills, cut = found["kills"], found.get("link_cut_for_a_while", {})
    good, disk, nan = (found.get(key, {}) for key in ("link_cut_for_good", "disk_full", "nan"))
    poisoned, skipped = nan.get("poisoned_micro_batches", 0), nan.get("skipped_steps", 0)
    promises = {
        f"{found['resumed']} of {kills} kills resumed": found["resumed"] == kills,
        "the killed runs do not end with the same bits": found["bit_identical"],
        f"{found['checkpoints_lost']} checkpoints lost": found["checkpoints_lost"] == 0,
        f"{found['left_running']} processes left running": found["left_running"] == 0,
        "a link cut for a while ended the run": cut.get("finished", True),
        "a link cut for a while was not noticed": cut.get("started_again", 1) > 0,
        "a link cut for a while changed the weights": cut.get("bit_identical", True),
        "a link cut for good was noticed late": good.get("in_time", True),
        "a link cut for good: the host is not named": good.get("names_the_host", True),
        "a full disk was not reported": disk.get("said_so", True),
        "a full disk stopped the run at once": disk.get("went_on_while_full", True),
        "a full disk ended the run": disk.get("finished", True),
        "a full disk changed the weights": disk.get("bit_identical", True),
        "NaN: no micro batch was poisoned": nan.get("poisoned_micro_batches", 1) > 0,
        # Both ranks may have a poisoned micro batch in one step.
        "NaN: other steps were skipped than were poisoned": poisoned <= 2 * skipped <= 2 * poisoned,
        "steps of a clean run were non-finite": nan.get("skipped_when_clean", 0) == 0,
        # A recipe given by --nan-recipe may have spikes of its own.
        "steps of clean images were skipped": "ap_bound" in nan
        or nan.get("spikes", 0) == nan.get("spikes_when_clean", 0) == 0,
        f"NaN changed the AP by more than {nan.get('ap_bound')}": abs(nan.get("ap_change", 0.0))
        <= nan.get("ap_bound", math.inf),
    }
    return [text for text, is_kept in promises.items() if not is_kept]


if __name__ == "__main__":
    sys.exit(main())
