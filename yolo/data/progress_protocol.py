"""Saying how far some work is, without knowing who is told."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Advance = Callable[[int], None]
"""Is told how many more pieces are done."""
Counting = Callable[[str, int], AbstractContextManager[Advance]]
"""Given some work's name and its number of pieces, a context with the function that is told of them."""


def uncounted(what: str, total: int) -> AbstractContextManager[Advance]:
    """Nobody is told."""
    return nullcontext(lambda count: None)
