"""Put before the chaos test's poison on PYTHONPATH: ranks never see the steps that the poison would have fed NaN.

`YOLO_PASS_OVER` is what `YOLO_POISON` is there; a step has one micro batch.
"""

import os
import random
from types import ModuleType

from when_loaded import when_loaded


def pass_over(module: ModuleType) -> None:
    share, seed = os.environ["YOLO_PASS_OVER"].split(":")
    chances = [random.Random(f"{seed} {rank}") for rank in range(int(os.environ["WORLD_SIZE"]))]
    original = module.Trainer._batches

    def batches(trainer):  # type: ignore[no-untyped-def]
        for batch in original(trainer):
            is_fed = [chance.random() < float(share) for chance in chances]
            if not any(is_fed):
                yield batch

    module.Trainer._batches = batches  # type: ignore[attr-defined]


if "YOLO_PASS_OVER" in os.environ and "RANK" in os.environ:
    when_loaded(("yolo.training.loop.trainer",), pass_over)
