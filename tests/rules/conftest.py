"""The fixtures that start whole runs are those of the tests of training."""

import pytest

pytest.register_assert_rewrite("tests.rules.evidence", "tests.rules.observed")

from tests.training.conftest import run, small_demo, start  # noqa: E402

__all__ = ["run", "small_demo", "start"]
