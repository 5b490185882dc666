"""Change a module right after Python has loaded it, independent of the place of its first import."""

import sys
from collections.abc import Callable, Collection
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Finder(MetaPathFinder):
    def __init__(self, names: Collection[str], change: Callable[[ModuleType], None]) -> None:
        self.names = names
        self.change = change

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:  # type: ignore[no-untyped-def]
        if name not in self.names:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            self.change(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def when_loaded(names: Collection[str], change: Callable[[ModuleType], None]) -> None:
    """Call `change` with each of these modules once it is loaded; at once if it is loaded already."""
    for name in names:
        if name in sys.modules:
            change(sys.modules[name])
    sys.meta_path.insert(0, _Finder(names, change))
