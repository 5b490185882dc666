"""The fixtures that start whole runs are those of the tests of training."""

from tests.training.conftest import run, small_demo, start

__all__ = ["run", "small_demo", "start"]
