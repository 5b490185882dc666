"""The nearest right spelling of a word."""

import difflib
from collections.abc import Iterable


def nearest(word: str, allowed: Iterable[str]) -> str:
    """` Did you mean '...'?`, or nothing where no allowed word is near."""
    by_lower_case = {candidate.lower(): candidate for candidate in allowed}
    matches = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.5)
    return f" Did you mean {by_lower_case[matches[0]]!r}?" if matches else ""
