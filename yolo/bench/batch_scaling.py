"""Does accuracy stay as the global batch grows? `python -m yolo.bench.batch_scaling recipes/bccd.yaml data.root=/path/to/bccd`.

The recipe is trained once for each batch and seed, through the launcher and for the same number of epochs, and scaled
as its `train.base_batch` says.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from yolo.errors import BenchError, exit_code_of
from yolo.launch.supervisor import run_with_restarts
from yolo.preflight.local import missing_here
from yolo.recipe import ResolvedRecipe, prepare
from yolo.training.checkpointing.run_directory import RunDirectory, new_run

BATCHES = "16,32,64,128"
QUIET = ("tracking.wandb.mode=disabled",)


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
    """Of the last evaluation."""
    ap50: float
    wire_bytes_per_rank: float
    """Sent in all training steps."""
    wall_seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Train at each batch, write batches.json and batches.md; returns the exit code, 2 where the user has to put something right."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.batch_scaling", description=__doc__)
    parser.add_argument("recipe", type=Path, help="the recipe's YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--batches", default=BATCHES, help="global batches; default %(default)s")
    parser.add_argument("--seeds", default="0", help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "batches", "stopped; what was measured is kept")


def _bench(options: argparse.Namespace) -> None:
    jobs = [
        (*QUIET, *options.overrides, f"train.global_batch={batch}", f"train.seed={seed}")
        for batch in _numbers("--batches", options.batches)
        for seed in _numbers("--seeds", options.seeds)
    ]
    prepared = [prepare(options.recipe, settings).resolved for settings in jobs]
    if prepared[0].loaded.recipe.train.base_batch is None:
        raise BenchError(
            f"{options.recipe}: train.base_batch is not set, so that nothing would be scaled with the batch; set it to the "
            "global batch that the recipe's optimizer.lr is for"
        )
    if lack := list(missing_here(prepared[0])):
        raise BenchError("\n".join(lack))
    rows: list[BatchRow] = []
    for settings, resolved in zip(jobs, prepared, strict=True):
        rows.append(_train(options.recipe, settings, resolved))
        written = write_results(rows, options.out)
    print(markdown(rows))
    print("wrote", ", ".join(map(str, written)))


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise BenchError(f"{option} {text}: expected whole numbers such as 16,32") from None


def _train(recipe: Path, settings: Sequence[str], resolved: ResolvedRecipe) -> BatchRow:
    run = RunDirectory(new_run("batches").path.resolve())
    run_with_restarts(resolved, recipe, settings, run)
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    if summary["ap"] is None:
        raise BenchError(f"{recipe}: its validation split has no boxes, hence no AP")
    train = resolved.recipe.train
    return BatchRow(
        global_batch=train.global_batch,
        seed=train.seed,
        lr=resolved.recipe.optimizer.lr,
        epochs=summary["epochs"],
        steps=summary["steps"],
        ap=summary["ap"],
        ap50=summary["ap50"],
        wire_bytes_per_rank=summary["wire_bytes_per_rank"],
        wall_seconds=summary["wall_seconds"],
    )


def spread(rows: Sequence[BatchRow]) -> float:
    """Between the batches with the highest and the lowest AP, each its seeds' mean."""
    means = [statistics.fmean(row.ap for row in each) for each in _by_batch(rows).values()]
    return max(means) - min(means)


def write_results(rows: Sequence[BatchRow], folder: Path) -> list[Path]:
    """Write batches.json and batches.md; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, table = folder / "batches.json", folder / "batches.md"
    content = {"ap_spread": spread(rows), "rows": [asdict(row) for row in rows]}
    as_json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    table.write_text(markdown(rows), encoding="utf-8")
    return [as_json, table]


def markdown(rows: Sequence[BatchRow]) -> str:
    """A line for each batch, with the AP of each seed."""
    lines = [
        "| global batch | learning rate | steps | AP | AP50 | MB sent by a rank | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for batch, each in _by_batch(rows).items():
        first = each[0]
        aps, ap50s = (
            ", ".join(f"{value:.3f}" for value in values)
            for values in ([row.ap for row in each], [row.ap50 for row in each])
        )
        megabytes = statistics.fmean(row.wire_bytes_per_rank for row in each) / 1e6
        seconds = statistics.fmean(row.wall_seconds for row in each)
        lines.append(
            f"| {batch} | {first.lr:.3g} | {first.steps} | {aps} | {ap50s} | {megabytes:,.0f} | {seconds:.0f} |"
        )
    lines += [
        "",
        f"AP differs by {spread(rows):.3f} between the batches, {rows[0].epochs} epochs each.",
    ]
    return "\n".join(lines) + "\n"


def _by_batch(rows: Sequence[BatchRow]) -> dict[int, list[BatchRow]]:
    batches = dict.fromkeys(row.global_batch for row in rows)
    return {batch: [row for row in rows if row.global_batch == batch] for batch in batches}


if __name__ == "__main__":
    sys.exit(main())
