"""Runs of the main job, as tests of training start them."""

from tests.training.conftest import run, small_demo, start, start_anew  # noqa: F401
