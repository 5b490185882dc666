"""What one rank does: a training step at each number of columns, timed and counted on the interface.

Started on every host by the deepspeed launcher; the first rank appends one JSON line per number of columns to a file.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from yolo.calibration.strategies import STRATEGIES
from yolo.calibration.strategy_timing import CLASSES, RECIPE, job_overrides, measure
from yolo.calibration.synthetic_step import TimingJob
from yolo.communication.sharding.column_group import ColumnGroup
from yolo.recipe import prepare
from yolo.training.engine.distributed import init_distributed, shutdown_distributed
from yolo.training.engine.launched import world_size_from_launcher

STRATEGY = STRATEGIES["zero0"]


def sharded_job(columns: int, global_batch: int, pixels: int, ranks: int) -> TimingJob:
    """A step of the global batch in one micro batch per rank, one rank per host."""
    images = global_batch * columns // ranks
    overrides = (
        *job_overrides((images, pixels), ranks),
        *(f"train.global_batch={global_batch}", f"sharding.columns={columns}"),
    )
    return TimingJob(prepare(RECIPE, overrides, ranks, 1), CLASSES)


def main() -> None:
    """Measure each number of columns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, nargs="+", required=True)
    parser.add_argument("--global-batch", type=int, required=True)
    parser.add_argument("--pixels", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--local_rank")
    options = parser.parse_args()
    ranks = world_size_from_launcher()
    jobs = {
        columns: sharded_job(columns, options.global_batch, options.pixels, ranks)
        for columns in options.columns
    }
    context = init_distributed(sharded_job(1, options.global_batch, options.pixels, ranks).recipe)
    groups = {columns: torch.distributed.new_subgroups(columns)[0] for columns in jobs}
    for _ in range(
        options.rounds
    ):  # in turns: a machine that slows down meanwhile slows all of them
        for columns, job in jobs.items():
            place = ColumnGroup()
            if columns > 1:
                place = ColumnGroup.of(context.rank, columns, groups[columns])
            timing = measure(STRATEGY, job, options.steps, replace(context, columns=place))
            if context.is_main:
                line = {"columns": columns, **asdict(timing)}
                with options.out.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(line) + "\n")
    shutdown_distributed()


if __name__ == "__main__":
    main()
