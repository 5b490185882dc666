"""Every recipe that `check` passes starts under the real DeepSpeed on 2 ranks, and takes two steps.

`YOLO_RANDOM_RECIPES=500 pytest tests/recipe/rules/against_deepspeed/test_random_recipes.py -s` is a full run; CI takes a sample.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.recipe.rules.against_deepspeed.case import Case, Observation
from tests.recipe.rules.against_deepspeed.pair import RanksOfTest
from tests.recipe.rules.against_deepspeed.random_recipes import Overrides, overrides
from yolo.errors import RecipeError
from yolo.recipe import prepare

RECIPES = int(os.environ.get("YOLO_RANDOM_RECIPES", "12"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RanksOfTest]:
    with RanksOfTest(tmp_path_factory.mktemp("ranks")) as started:
        yield started


COUNTED: Counter[str] = Counter()


@pytest.mark.slow
def test_what_check_passes_starts_and_takes_two_steps(ranks: RanksOfTest) -> None:
    started = time.monotonic()
    COUNTED.clear()

    @settings(
        max_examples=RECIPES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(overrides())
    def takes_two_steps(drawn: Overrides) -> None:
        case = Case(drawn)
        try:
            prepare(case.recipe, case.overrides, 2, 2)
        except RecipeError:
            COUNTED["refused"] += 1
            return
        COUNTED["passed"] += 1
        for seen in ranks.every(case):
            assert isinstance(seen, Observation), f"{drawn}: {seen}"
            assert len(seen.taken) == case.steps

    takes_two_steps()
    print(f"\n{dict(COUNTED)} in {time.monotonic() - started:.0f} s")
    assert COUNTED["passed"] >= RECIPES / 5
    assert COUNTED["refused"] >= RECIPES / 10
