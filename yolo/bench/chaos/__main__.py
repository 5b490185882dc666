"""`python -m yolo.bench.chaos`: what a run survives, measured; writes results/chaos.json."""

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yolo.bench.chaos.disk import fill_the_disk, small_disk
from yolo.bench.chaos.job import ChaosRun, processes_of
from yolo.bench.chaos.kills import kill_at_random
from yolo.bench.chaos.links import cut_for_a_while, cut_for_good
from yolo.bench.chaos.nan import feed_nan
from yolo.data.demo import DemoSettings, generate_demo
from yolo.emulation.cluster import EmulatedCluster, check_rights
from yolo.errors import exit_code_of

RESULTS = Path("results/chaos.json")
AP_BOUND = 0.01
"""Between runs with NaN and the same without, in the mean over the seeds, of a recipe that was asked for."""
FAULTS = ("kills", "links", "disk", "nan")
SMALL = (
    *("model.image_size=64", "train.global_batch=8", "train.epochs=20", "train.warmup_epochs=0"),
    *("evaluation.every_epochs=10", "checkpoint.every_epochs=1", "checkpoint.every_steps=2"),
    *("tracking.log_every_steps=1", "tracking.wandb.mode=disabled", "precision.dtype=fp32"),
    *("data.workers=1", "cluster.restarts=50"),
)
"""60 steps, a checkpoint after every second one; of fp32 on processors the bits are promised."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; ends with 1 where a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS), help="some of " + ", ".join(FAULTS))
    parser.add_argument(
        "--nan", type=float, default=0.03, help="share of micro batches (default 0.03)"
    )
    parser.add_argument(
        "--nan-recipe", nargs="+", metavar="RECIPE", help="train this one for `nan`"
    )
    parser.add_argument(
        "--nan-seeds",
        type=int,
        nargs="+",
        default=[0],
        metavar="SEED",
        help="train.seed of the runs for `nan`, a clean one and one with NaN each, whatever --nan-recipe says (default 0)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    faults = options.faults.split(",")
    if not 0 <= options.nan <= 1 or options.kills < 0 or not set(faults) <= set(FAULTS):
        parser.error(
            f"expected kills from 0 on, a share for --nan, and faults of {', '.join(FAULTS)}"
        )
    kept: list[bool] = []
    code = exit_code_of(lambda: kept.append(_run(options)), "yolo.bench.chaos")
    return code or int(not all(kept))


def _run(options: argparse.Namespace) -> bool:
    check_rights()
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    faults = options.faults.split(",")
    with tempfile.TemporaryDirectory(prefix="yolo-chaos-") as name:
        folder = Path(name)
        generate_demo(folder / "demo", DemoSettings(train_images=24, val_images=9, size=96))
        with small_disk(folder), EmulatedCluster(2) as cluster:
            environment = {"OMP_NUM_THREADS": "1", **cluster.open_to_ssh()}
            overrides = (f"data.root={folder / 'demo'}", *SMALL)
            job = ChaosRun(cluster, folder, overrides, environment)
            found = _faults(faults, job, options, tell)
            found["left_running"] = len(
                [
                    p
                    for work in (*folder.iterdir(), *folder.glob("nan/*"))
                    for p in processes_of(work)
                ]
            )
    found = {"seed": options.seed, "seconds": round(time.monotonic() - began, 1), **found}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    broken = list(_broken(found))
    for text in broken:
        tell(f"NOT KEPT: {text}")
    tell(f"{options.out} written")
    return not broken


def _faults(
    faults: Sequence[str], job: ChaosRun, options: argparse.Namespace, tell: Callable[[str], None]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # The run that is left alone is the other faults' measure too.
    number = options.kills if "kills" in faults else 0
    found |= kill_at_random(job, number, random.Random(options.seed), tell).as_json()
    if "links" in faults:
        found["link_cut_for_a_while"] = cut_for_a_while(job, tell)
        found["link_cut_for_good"] = cut_for_good(job, tell)
    if "disk" in faults:
        found["disk_full"] = fill_the_disk(job, tell)
    if "nan" in faults:
        found["nan"] = feed_nan(
            _nan_job(job, options), options.nan, options.seed, options.nan_seeds, tell
        )
        if options.nan_recipe:  # the small run's AP hangs on every step
            found["nan"]["ap_bound"] = AP_BOUND
    return found


def _nan_job(job: ChaosRun, options: argparse.Namespace) -> ChaosRun:
    if not options.nan_recipe:
        return job
    recipe, *overrides = options.nan_recipe
    folder = job.folder / "nan"
    return ChaosRun(job.cluster, folder, tuple(overrides), job.environment, Path(recipe).resolve())


def _broken(found: dict[str, Any]) -> list[str]:
    """What was promised and not kept."""
    kills, cut = found["kills"], found.get("link_cut_for_a_while", {})
    good, disk, nan = (found.get(key, {}) for key in ("link_cut_for_good", "disk_full", "nan"))
    promises = {
        f"{found['resumed']} of {kills} kills resumed": found["resumed"] == kills,
        "the killed runs do not end with the same bits": found["bit_identical"],
        f"{found['checkpoints_lost']} checkpoints lost": found["checkpoints_lost"] == 0,
        f"{found['left_running']} processes left running": found["left_running"] == 0,
        "a link cut for a while ended the run": cut.get("finished", True),
        "a link cut for a while was not noticed": cut.get("started_again", 1) > 0,
        "a link cut for a while changed the weights": cut.get("bit_identical", True),
        "a link cut for good is noticed late": good.get("in_time", True),
        "a link cut for good: the host is not named": good.get("names_the_host", True),
        "a full disk is not told": disk.get("said_so", True),
        "a full disk stopped the run at once": disk.get("went_on_while_full", True),
        "a full disk ended the run": disk.get("finished", True),
        "a full disk changed the weights": disk.get("bit_identical", True),
        "NaN: nothing was poisoned": nan.get("poisoned_micro_batches", 1) > 0,
        # A step may have a poisoned micro batch on both of the ranks.
        "NaN: other steps were left out than were poisoned": nan.get("poisoned_micro_batches", 0)
        <= 2 * nan.get("skipped_steps", 0)
        <= 2 * nan.get("poisoned_micro_batches", 0),
        "steps of a clean run were not finite": nan.get("skipped_when_clean", 0) == 0,
        # A recipe that was asked for may have spikes of its own.
        "steps of clean images were left out": "ap_bound" in nan
        or nan.get("spikes", 0) == nan.get("spikes_when_clean", 0) == 0,
        f"NaN changed the AP by more than {nan.get('ap_bound')}": abs(nan.get("ap_change", 0.0))
        <= nan.get("ap_bound", math.inf),
    }
    return [text for text, is_kept in promises.items() if not is_kept]


if __name__ == "__main__":
    sys.exit(main())
