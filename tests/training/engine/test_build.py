"""The strategies that a recipe can name."""

from typing import get_args

from yolo.planner.cost.strategies import STRATEGY_COSTS
from yolo.recipe.schema.distributed import Reducer
from yolo.training.engine.build import STRATEGIES


def test_every_reducer_of_the_schema_can_be_built_and_predicted() -> None:
    reducers = set(get_args(Reducer))
    assert set(STRATEGIES) == {*reducers, "local_sgd"}
    assert reducers - {"deepspeed"} <= STRATEGY_COSTS.keys()
