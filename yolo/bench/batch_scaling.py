"""Does accuracy stay as the global batch grows? `python -m yolo.bench.batch_scaling recipes/bccd.yaml data.root=/path/to/bccd`.

Trains the recipe once per batch and seed through the launcher, each for the same number of epochs, scaled by its
`train.base_batch`.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from yolo.bench import results
from yolo.bench.command_line import add_out, check_files, numbers, recipe_parser
from yolo.errors import BenchError, exit_code_of
from yolo.launch.supervisor import run_with_restarts
from yolo.recipe import ResolvedRecipe, prepare
from yolo.training.checkpointing.run_directory import RunDirectory, new_run

BATCHES = "16,32,64,128"
QUIET = "tracking.wandb.mode=disabled"
COLUMNS = ("global batch", "learning rate", "steps", "AP", "AP50", "MB sent by a rank", "seconds")


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One run."""

    global_batch: int
    seed: int
    lr: float
    """After warm-up, as scaled."""
    epochs: int
    steps: int
    ap: float
    """From the last evaluation."""
    ap50: float
    wire_bytes_per_rank: float
    """Sent in all training steps."""
    wall_seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Train at each batch, write batches.json and batches.md; returns the exit code, 2 for an error that the user can fix."""
    parser = recipe_parser("yolo.bench.batch_scaling", __doc__)
    parser.add_argument("--batches", default=BATCHES, help="global batches; default %(default)s")
    parser.add_argument("--seeds", default="0", help="default %(default)s")
    add_out(parser)
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "batches", "stopped; finished runs are kept")


def _bench(options: argparse.Namespace) -> None:
    jobs = [
        (QUIET, *options.overrides, f"train.global_batch={batch}", f"train.seed={seed}")
        for batch in numbers("--batches", options.batches, int)
        for seed in numbers("--seeds", options.seeds, int)
    ]
    prepared = [prepare(options.recipe, settings).resolved for settings in jobs]
    if prepared[0].loaded.recipe.train.base_batch is None:
        raise BenchError(
            f"{options.recipe}: train.base_batch is not set, so nothing would be scaled with the batch; set it to the "
            "global batch that the recipe's optimizer.lr is for"
        )
    check_files(prepared[0])
    rows: list[BatchRow] = []
    for settings, resolved in zip(jobs, prepared, strict=True):
        rows.append(_train(options.recipe, settings, resolved))
        content = {"ap_spread": spread(rows), "rows": [asdict(row) for row in rows]}
        written = results.write_results(options.out, "batches", content, markdown(rows))
    print(markdown(rows))
    print("wrote", ", ".join(map(str, written)))


def _train(recipe: Path, settings: Sequence[str], resolved: ResolvedRecipe) -> BatchRow:
    run = RunDirectory(new_run("batches").path.resolve())
    run_with_restarts(resolved, settings, run)
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    if summary["ap"] is None:
        raise BenchError(f"{recipe}: its validation split has no boxes, hence no AP")
    train = resolved.recipe.train
    names = ("epochs", "steps", "ap", "ap50", "wire_bytes_per_rank", "wall_seconds")
    return BatchRow(
        global_batch=train.global_batch,
        seed=train.seed,
        lr=resolved.recipe.optimizer.lr,
        **{name: summary[name] for name in names},
    )


def spread(rows: Sequence[BatchRow]) -> float:
    """Highest minus lowest AP of the batches, each the mean over its seeds."""
    means = [
        statistics.fmean(row.ap for row in runs)
        for runs in results.grouped(rows, "global_batch").values()
    ]
    return max(means) - min(means)


def markdown(rows: Sequence[BatchRow]) -> str:
    """A table with one line per batch and the AP of each seed, then the spread."""
    cells = []
    for batch, runs in results.grouped(rows, "global_batch").items():
        aps = ", ".join(f"{row.ap:.3f}" for row in runs)
        ap50s = ", ".join(f"{row.ap50:.3f}" for row in runs)
        megabytes = statistics.fmean(row.wire_bytes_per_rank for row in runs) / 1e6
        seconds = statistics.fmean(row.wall_seconds for row in runs)
        lr, steps = f"{runs[0].lr:.3g}", runs[0].steps
        cells.append((batch, lr, steps, aps, ap50s, f"{megabytes:,.0f}", f"{seconds:.0f}"))
    differs = f"AP differs by {spread(rows):.3f} between the batches, {rows[0].epochs} epochs each."
    return "\n".join([*results.markdown_table(COLUMNS, cells), "", differs]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
