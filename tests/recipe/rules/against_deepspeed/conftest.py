"""The fixtures that start whole runs are those of the tests of training."""

import pytest

pytest.register_assert_rewrite(
    "tests.recipe.rules.against_deepspeed.evidence", "tests.recipe.rules.against_deepspeed.observed"
)

from tests.training.conftest import run, small_demo, start  # noqa: E402

__all__ = ["run", "small_demo", "start"]
