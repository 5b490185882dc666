"""The few errors that a user can put right: the command line prints them in one line, never as a traceback."""


class YoloError(Exception):
    """What was found, what was expected and what to do; ends the program with exit code 2."""


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


class BenchError(YoloError):
    """The emulated cluster cannot be built on this machine, is not as slow as asked for, or a host of it failed."""
