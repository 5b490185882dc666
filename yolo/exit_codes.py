"""Exit codes of a rank, which the launcher passes to `yolo train`. Needs no torch."""

REFUSED = 2
"""The user has to fix something: the run is never restarted."""
LEFT = 75
"""Preempted: stopped gracefully, with a checkpoint (EX_TEMPFAIL of sysexits.h)."""
RANKS_LOST = 76
"""Other ranks are missing or a collective did not finish: the run may be restarted."""
PORT_TAKEN = 77
"""Another run or program has the ranks' port: `yolo train` starts again with the next one."""
STOPPED = 130
"""A second Ctrl-C stops at once; shells use the same code (128 + SIGINT)."""
