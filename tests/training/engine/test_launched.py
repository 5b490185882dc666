"""What a rank computes on is what the recipe says, or it is refused."""

import os

import pytest
from deepspeed.accelerator import get_accelerator

from yolo.errors import LaunchError
from yolo.recipe import prepare
from yolo.training.engine.distributed import init_distributed
from yolo.training.engine.launched import prepare_on_rank

DEMO = "recipes/demo.yaml"


@pytest.fixture(autouse=True)
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_SIZE", "2")
    monkeypatch.setenv("DS_ACCELERATOR", "")


def test_deepspeed_is_told_of_the_processor_that_the_recipe_wants() -> None:
    prepare_on_rank(DEMO, ["cluster.accelerator=cuda"])
    assert not os.environ["DS_ACCELERATOR"]
    prepare_on_rank(DEMO, ["cluster.accelerator=cpu"])
    assert os.environ["DS_ACCELERATOR"] == "cpu"


@pytest.mark.skipif(get_accelerator().device_name() != "cpu", reason="for machines without a GPU")
@pytest.mark.parametrize("setting", ["cluster.accelerator=cuda", "cluster.hostfile=hosts"])
def test_a_host_without_the_gpus_that_were_promised_does_not_train_on_its_processor(
    setting: str,
) -> None:
    recipe = prepare(DEMO, [setting], 2, 2).resolved.recipe
    with pytest.raises(LaunchError, match="cuda: .* has no GPU .*set cluster.accelerator=cpu"):
        init_distributed(recipe)
