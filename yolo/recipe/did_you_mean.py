"""Suggest the nearest valid spelling of a word."""

import difflib
from collections.abc import Iterable

FAMILIAR = {
    "batch": "global_batch",
    "batch_size": "global_batch",
    "disable": "disabled",
    "img": "image_size",
    "imgsz": "image_size",
    "lr0": "lr",
    "off": "disabled",
    "save_period": "every_epochs",
}
"""Names in other trainers -> ours."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """` Did you mean '...'?`, or nothing if no allowed word is near; the dashes of options do not count."""
    word = word.lstrip("-")
    by_lower_case = {candidate.lower().lstrip("-"): candidate for candidate in allowed}
    familiar = by_lower_case.get(FAMILIAR.get(word.lower(), ""))
    if familiar:
        return f" Did you mean {familiar!r}?"
    matches = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.5)
    return f" Did you mean {by_lower_case[matches[0]]!r}?" if matches else ""
