"""Progress of long work, reported without knowing who displays it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

ProgressCallback = Callable[[int], None]
"""Called with the number of pieces that were just completed."""
ProgressFactory = Callable[[str, int], AbstractContextManager[ProgressCallback]]
"""Given a description and the number of pieces: a context that provides the callback."""


def no_progress(what: str, total: int) -> AbstractContextManager[ProgressCallback]:
    """A `ProgressFactory` that displays nothing."""
    return nullcontext(lambda count: None)
