"""Record the collectives of one step under several strategies: kind, payload bytes (mean over the ranks) and type, in order."""

import argparse
import gc
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolo.calibration.strategies import STRATEGIES
from yolo.calibration.strategy_timing import CLASSES, RECIPE, job_overrides
from yolo.calibration.synthetic_step import SyntheticTraining, TimingJob
from yolo.communication.metering import meter
from yolo.recipe import prepare
from yolo.training.engine.distributed import (
    all_gather_object,
    init_distributed,
    shutdown_distributed,
)
from yolo.training.engine.launched import world_size_from_launcher

PIXELS = 64
SETTLE = 20
"""Steps until every strategy is in the phase that it stays in."""


class Recorder(meter.TrafficMeter):
    """Also keeps each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int, str]] = []

    def _metered(
        self, collective: meter.Collective, original: Callable[..., Any]
    ) -> Callable[..., Any]:
        metered = super()._metered(collective, original)
        signature = inspect.signature(original)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            if not getattr(self._thread, "is_inside", False):
                given = signature.bind(*args, **kwargs).arguments
                payload = meter._tensors(given[collective.payload])
                size = sum(t.numel() * t.element_size() for t in payload)
                self.calls.append((collective.kind, size, str(payload[0].dtype) if payload else ""))
            return metered(*args, **kwargs)

        return recorded


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--local_rank")
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    parser.add_argument("strategies", nargs="+")
    options = parser.parse_args()
    ranks_here = world_size_from_launcher()
    overrides = (*job_overrides((1, PIXELS), ranks_here), *options.set)
    job = TimingJob(prepare(RECIPE, overrides, ranks_here, 1), CLASSES)
    ranks = init_distributed(job.recipe)
    found = {}
    for name in options.strategies:
        trainer = SyntheticTraining(STRATEGIES[name], job, ranks)
        for _ in range(SETTLE if trainer.strategy.period > 1 else 8):
            trainer.step()
        recorder = Recorder()
        recorder.attach()
        for _ in range(trainer.strategy.period):
            trainer.step()
        recorder.detach()
        found[name] = [
            (each[0][0], sum(size for _, size, _ in each) / len(each), each[0][2])
            for each in zip(*all_gather_object(ranks, recorder.calls), strict=True)
        ]
        del trainer
        gc.collect()
    if ranks.is_main:
        options.out.write_text(json.dumps(found))
    shutdown_distributed()


main()
