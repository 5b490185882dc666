"""Make some images NaN on one rank, for the chaos test, which puts this folder first on PYTHONPATH.

Python imports a module of this name by itself when it starts. `YOLO_POISON` is the share of the micro batches and a
seed, such as 0.01:1.
"""

import os
import random
import sys
from types import ModuleType

from when_loaded import when_loaded  # beside this file, which is no package

LOOP = "yolo.training.loop.step"
_was_poisoned = False
"""Whether the loop's last images were poisoned; the diagnosis looks at the same images."""


def poison(module: ModuleType) -> None:
    """Wrap the `to_network` that a module trains with."""
    share, seed = os.environ["YOLO_POISON"].split(":")
    original = module.to_network
    rank = int(os.environ.get("RANK", "0"))
    chance = random.Random(f"{seed} {rank}")

    def to_network(*arguments):  # type: ignore[no-untyped-def]
        global _was_poisoned
        images = original(*arguments)
        if module.__name__ == LOOP:
            _was_poisoned = chance.random() < float(share)
            if _was_poisoned:
                print(f"rank {rank}: images of a step become NaN", file=sys.stderr, flush=True)
        if _was_poisoned:
            images = images.clone()
            images[0] = float("nan")
        return images

    module.to_network = to_network  # type: ignore[attr-defined]


if "YOLO_POISON" in os.environ and "RANK" in os.environ:
    when_loaded((LOOP, "yolo.training.resilience.nonfinite"), poison)
