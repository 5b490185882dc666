"""Processes that must not outlive who started them, on Linux. Needs no torch."""

import ctypes
import signal

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, however that happens (prctl(2))."""
    _prctl(PR_SET_PDEATHSIG, by)


def adopt_orphans() -> None:
    """Become the parent of whatever a descendant leaves behind, so that it can be found and ended."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
