"""Errors that a user can fix: the command line prints one line, never a traceback."""

import sys
from collections.abc import Callable


class YoloError(Exception):
    """What was found, what was expected and what to do. The program exits with `exit_code`."""

    exit_code = 2


class RecipeError(YoloError):
    """A recipe, an override or a combination of settings that cannot work."""


class DataError(YoloError):
    """A data set that is missing, malformed or damaged beyond the share the recipe allows."""


class WeightsError(YoloError):
    """A weights file that is missing, unreadable or does not fit the network."""


class CheckpointError(YoloError):
    """A checkpoint that is missing, incomplete or from another run."""


class LaunchError(YoloError):
    """The launcher could not start, or a run ended before its last epoch."""


class ClusterError(YoloError):
    """Hosts that cannot run a recipe together, or a list of hosts that cannot be read."""


class BenchError(YoloError):
    """The emulated cluster cannot be built on this machine, is not as slow as requested, or one of its hosts failed."""


class PlanError(YoloError):
    """A cluster profile that cannot be read, or lacks what a plan needs."""


LONGEST_LINE = 1000
"""Characters per line of a message: what was found may be the full content of a file."""


def readable(message: object) -> str:
    """Make a message safe for a terminal: escape control characters, and cut the middle of very long lines."""
    lines = []
    for line in str(message).split("\n"):
        if len(line) > LONGEST_LINE:
            half = LONGEST_LINE // 2
            line = f"{line[:half]} ... {line[-half:]}"
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        lines.append("".join(shown))
    return "\n".join(lines)


def exit_code_of(work: Callable[[], None], name: str, stopped: str = "stopped") -> int:
    """Run a command's work; if it fails, print the reason in one line.

    `name` begins the line if the system names no file. Returns 0, the error's `exit_code` (2: the user can fix it), or 130
    after Ctrl-C.
    """
    try:
        work()
    except YoloError as error:
        print(readable(error), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `| head` has read enough
        return 0
    except OSError as error:
        print(readable(f"{error.filename or name}: {error.strerror or error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0
