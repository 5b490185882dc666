"""Places in nested lists and dicts, and what stands there changed."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

Place = tuple[Any, ...]
Entries = Iterable[tuple[Any, Any]]


def entries(value: Any) -> Entries:
    """What a dict or a list holds, by key or index; nothing in any other value."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def places(
    value: Any, look_into: Callable[[Any], Entries] = entries, place: Place = ()
) -> Iterator[Place]:
    """Every place below a value, one above what is in it; of what a value holds, what `look_into` gives."""
    if place:
        yield place
    for key, below in look_into(value):
        yield from places(below, look_into, (*place, key))


def with_value(content: Any, place: Place, value: Any) -> Any:
    """A copy with another value at a place."""
    changed = deepcopy(content)
    found = changed
    for key in place[:-1]:
        found = found[key]
    found[place[-1]] = value
    return changed
