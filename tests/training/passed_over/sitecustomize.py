"""Put before everything else on PYTHONPATH: ranks never see the steps that the chaos test's poison would have fed NaN.

Python imports a module of this name by itself when it starts. `YOLO_PASS_OVER` is what `YOLO_POISON` is there; a step has
one micro batch.
"""

import os
import random
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _PassesOver(MetaPathFinder):
    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:  # type: ignore[no-untyped-def]
        if name != "yolo.data.loader":
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_wrap(module: ModuleType) -> None:
            load(module)
            pass_over(module)

        spec.loader.exec_module = load_and_wrap  # type: ignore[method-assign]
        return spec


def pass_over(module: ModuleType) -> None:
    share, seed = os.environ["YOLO_PASS_OVER"].split(":")
    chances = [random.Random(f"{seed} {rank}") for rank in range(int(os.environ["WORLD_SIZE"]))]
    original = module.TrainingLoader.epoch

    def epoch(*arguments):  # type: ignore[no-untyped-def]
        for step in original(*arguments):
            if all([chance.random() >= float(share) for chance in chances]):  # each draws  # noqa: C419
                yield step

    module.TrainingLoader.epoch = epoch  # type: ignore[attr-defined]


if "YOLO_PASS_OVER" in os.environ and "RANK" in os.environ:
    sys.meta_path.insert(0, _PassesOver())
