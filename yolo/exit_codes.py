"""Exit codes of a rank, which the launcher hands on to `yolo train`. Needs no torch."""

REFUSED = 2
"""The user has something to put right: never started again."""
LEFT = 75
"""Asked to leave, left in order, with a checkpoint (EX_TEMPFAIL of sysexits.h)."""
RANKS_LOST = 76
"""Other ranks are missing or a collective did not finish: worth another start."""
STOPPED = 130
"""Ctrl-C a second time: at once, as shells call it (128 + SIGINT)."""
