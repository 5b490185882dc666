"""The few errors that a user can put right: the command line prints them in one line, never as a traceback."""

import sys
from collections.abc import Callable


class YoloError(Exception):
    """What was found, what was expected and what to do; ends the program with `exit_code`."""

    exit_code = 2


class RecipeError(YoloError):
    """A recipe, an override or a combination of settings that cannot work."""


class DataError(YoloError):
    """A data set that is missing, malformed or damaged beyond the share the recipe allows."""


class WeightsError(YoloError):
    """A weights file that is missing, unreadable or does not fit the network."""


class CheckpointError(YoloError):
    """A checkpoint that is missing, torn or of another run."""


class LaunchError(YoloError):
    """The launcher could not start, or a run ended without reaching its end."""


class ClusterError(YoloError):
    """Hosts that cannot run a recipe together, or a list of hosts that cannot be read."""


class BenchError(YoloError):
    """The emulated cluster cannot be built on this machine, is not as slow as asked for, or a host of it failed."""


class PlanError(YoloError):
    """A cluster's profile that cannot be read, or a question that it holds no answer to."""


LONGEST_LINE = 1000
"""Characters of a message's line: what was found may be a file's whole content."""


def readable(message: object) -> str:
    """A message as a terminal may show it: what would steer it is escaped, and a line too long to read lacks its middle."""
    lines = []
    for line in str(message).split("\n"):
        if len(line) > LONGEST_LINE:
            half = LONGEST_LINE // 2
            line = f"{line[:half]} ... {line[-half:]}"
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        lines.append("".join(shown))
    return "\n".join(lines)


def exit_code_of(work: Callable[[], None], name: str, stopped: str = "stopped") -> int:
    """Do a command's work, and say in one line why it could not be done.

    `name` stands where the system names no file. Returns 0, the error's `exit_code` (2: the user has something to put right), 130 after Ctrl-C.
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
