"""Tie processes to the process that started them (Linux prctl(2)). Needs no torch."""

import ctypes
import signal

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when its parent ends for any reason."""
    _prctl(PR_SET_PDEATHSIG, by)


def adopt_orphans() -> None:
    """Become the parent of all orphaned descendants, so that they can be found and ended."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
