"""Put before everything else on PYTHONPATH by the chaos test: some images of some steps become NaN on one rank.

Python imports a module of this name by itself when it starts. `YOLO_POISON` is the share of the micro batches and a
seed, as 0.01:1.
"""

import os
import random
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

LOOP = "yolo.training.loop"
POISONED = (LOOP, "yolo.training.diagnosis")
_was_poisoned = False
"""The last images that the loop fed; the diagnosis looks at the same ones."""


class _Poisoner(MetaPathFinder):
    """Wraps `to_network` in the modules that train with it, once each is loaded."""

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:  # type: ignore[no-untyped-def]
        if name not in POISONED:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_wrap(module: ModuleType) -> None:
            load(module)
            poison(module)

        spec.loader.exec_module = load_and_wrap  # type: ignore[method-assign]
        return spec


def poison(module: ModuleType) -> None:
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
    sys.meta_path.insert(0, _Poisoner())
