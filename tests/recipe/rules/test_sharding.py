"""What the rules and `resolve` say of a mesh of data and columns."""

import pytest

from yolo.errors import RecipeError
from yolo.recipe import PreparedRecipe, prepare


def prepared(nodes: int, each: int, *settings: str) -> PreparedRecipe:
    return prepare("recipes/demo.yaml", settings, nodes * each, each)


@pytest.mark.parametrize(
    ("columns", "size", "near"), [(2, 160, "128 or 192"), (2, 64, "128"), (4, 992, "896 or 1024")]
)
def test_the_next_sizes_that_divide_are_named(columns: int, size: int, near: str) -> None:
    with pytest.raises(RecipeError, match=f"sharding.columns: {size} pixels .* to {near}$"):
        prepared(1, 4, f"sharding.columns={columns}", f"model.image_size={size}")


def test_an_image_lies_inside_a_node_or_on_whole_ones() -> None:
    size = "model.image_size=768"
    assert not [
        line for line in prepared(2, 4, "sharding.columns=2", size).warnings if "node" in line
    ]
    assert any(
        "lies on 2 nodes" in line for line in prepared(2, 2, "sharding.columns=4", size).warnings
    )
    with pytest.raises(RecipeError, match="expected a divisor of 6"):
        prepared(2, 6, "sharding.columns=4", size, "train.global_batch=48")


def test_a_stated_number_of_shares_needs_all_nodes() -> None:
    elastic = ("cluster.nodes=2", "cluster.least_nodes=1")
    with pytest.raises(RecipeError, match="4 shares need all 2 nodes.*leave sharding.data at auto"):
        prepared(2, 2, "sharding.data=4", *elastic)
    assert prepared(2, 2, *elastic)


def test_a_run_whose_images_lie_on_several_nodes_cannot_lose_one() -> None:
    elastic = ("cluster.nodes=2", "sharding.columns=4", "model.image_size=256")
    with pytest.raises(RecipeError, match="lies on 2 nodes.*set cluster.least_nodes to 2"):
        prepared(2, 2, "cluster.least_nodes=1", *elastic)
    assert prepared(2, 2, "cluster.least_nodes=2", *elastic)


def test_ranks_are_data_times_columns() -> None:
    recipe = prepared(1, 4, "sharding.columns=2", "model.image_size=128").resolved.recipe
    assert recipe.sharding.data == 2
    train = recipe.train
    assert train.global_batch == train.micro_batch * train.gradient_accumulation_steps * 2
    with pytest.raises(
        RecipeError, match=r"sharding.data: 3 x sharding.columns 2 is not 4 ranks; set it to 2"
    ):
        prepared(1, 4, "sharding.columns=2", "sharding.data=3", "model.image_size=128")
    with pytest.raises(RecipeError, match="4 ranks do not divide among images of 3 columns"):
        prepared(1, 4, "sharding.columns=3", "model.image_size=192")


def test_a_mesh_says_how_many_processes_this_machine_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    mesh = ("sharding.data=2", "sharding.columns=2", "model.image_size=128")
    assert prepare("recipes/demo.yaml", mesh).resolved.world_size == 4
    only_columns = ("sharding.columns=4", "model.image_size=256")
    assert prepare("recipes/demo.yaml", only_columns).resolved.world_size == 4
    nodes = ("cluster.nodes=2", "cluster.launcher=slurm")
    assert prepare("recipes/demo.yaml", (*mesh, *nodes)).resolved.world_size == 4


def test_deepspeed_counts_a_micro_batch_per_rank() -> None:
    from yolo.recipe import deepspeed_config

    config = deepspeed_config(
        prepared(1, 4, "sharding.columns=2", "model.image_size=128").resolved.recipe
    )
    product = config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"]
    assert config["train_batch_size"] == product * 4
