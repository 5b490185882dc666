"""What a plan says on sharding by columns."""

import json
from dataclasses import dataclass

import pytest

from tests.conftest import REPOSITORY
from yolo.cli import main
from yolo.planner.cost.halos import backward_halos, forward_halos
from yolo.planner.cost.memory import memory_of
from yolo.planner.cost.model_stats import yolov5
from yolo.planner.hardware_catalog import cluster
from yolo.planner.prediction import Data, predict
from yolo.planner.resolution import resolve_for
from yolo.planner.sharding import Mesh, Refused, meshes, sharding_reasons
from yolo.recipe import load_recipe
from yolo.recipe.schema.recipe import Recipe

COCO = REPOSITORY / "recipes/coco/yolov5l.yaml"
DATA = Data(118_287, 80)
LARGE = (
    *("model.image_size=3072", "train.global_batch=8", "train.micro_batch=1"),
    "train.gradient_accumulation_steps=auto",
)


@dataclass(frozen=True)
class Advice:
    """What a plan says on sharding."""

    meshes: tuple[Mesh | Refused, ...]
    reasons: tuple[str, ...]

    @property
    def possible(self) -> list[Mesh]:
        return [each for each in self.meshes if isinstance(each, Mesh)]

    def says(self, *words: str) -> bool:
        return any(all(word in reason for word in words) for reason in self.reasons)


def advice(name: str, *overrides: str) -> Advice:
    profile, loaded = cluster(name), load_recipe(COCO, [*LARGE, *overrides])
    written = resolve_for(profile, loaded).recipe
    found = meshes(loaded, profile, written, DATA)
    return Advice(found, tuple(sharding_reasons(found, profile, written, DATA)))


def recipe_of(name: str, *overrides: str) -> Recipe:
    return resolve_for(cluster(name), load_recipe(COCO, [*LARGE, *overrides])).recipe


def test_columns_save_memory_and_cost_time() -> None:
    found = advice("2x4xt4-100gbe").possible
    assert [each.columns for each in found] == [1, 2, 4, 8]
    memory = [each.prediction.memory.total for each in found]
    assert memory == sorted(memory, reverse=True)
    seconds = [each.prediction.step_seconds for each in found]
    assert seconds == sorted(seconds)
    halos = [each.halo_bytes for each in found]
    assert halos[0] == 0 and halos == sorted(halos)


def test_activations_fall_as_much_as_is_asked_for() -> None:
    """At most 0.56 and 0.32 of a whole image's, at 1,536 pixels and batch 1."""
    size = ("model.image_size=1536", "precision.dtype=fp32")
    network = yolov5("l", 80, 1536)
    whole, half, quarter = (
        memory_of(recipe_of("4xt4", *size, f"sharding.columns={each}"), network, 4, 0.0).activations
        for each in (1, 2, 4)
    )
    assert half < 0.56 * whole
    assert quarter < 0.32 * whole


def test_whole_images_are_advised_if_they_fit() -> None:
    plan = advice("2x4xt4-100gbe")
    assert plan.says("whole images fit")
    sharded = advice("2x4xt4-100gbe", "sharding.columns=4")
    assert sharded.says("whole images fit", "sharding.columns=4 takes")


def test_the_least_columns_that_fit_are_advised() -> None:
    plan = advice("2x4xt4-100gbe", "model.image_size=4096", "train.micro_batch=1")
    fits = [each.columns for each in plan.possible if each.fits]
    assert fits[0] == 2
    assert plan.says("sharding.columns=2 is the least that fits 16 GB")
    none = advice("2xt4", "model.image_size=12288")
    assert none.says("nothing fits 16 GB")


def test_a_mesh_that_cannot_be_says_why() -> None:
    plan = advice("8xt4", "model.image_size=640")
    refused = [each for each in plan.meshes if isinstance(each, Refused)]
    assert [each.columns for each in refused] == [8]
    assert "640 pixels do not divide" in refused[0].why


def test_between_nodes_it_turns_at_some_speed_or_at_none() -> None:
    fast = advice("2x4xt4-100gbe-rdma")
    assert fast.says("if an image lay on two nodes of 100 GbE with RDMA", "Gbit/s on less")
    small = advice("2x4xh100-10gbe", "model.image_size=256", "train.micro_batch=1")
    assert small.says("if an image lay on two nodes of 10 GbE", "on no link less than 5%")
    assert not advice("8xt4").says("two nodes")


def test_columns_over_nodes_take_longer_than_inside_one() -> None:
    two = Data(1000, 80)
    inside, across = (
        predict(cluster(name), recipe_of(name, "sharding.columns=4"), two).exposed_seconds
        for name in ("4xa100-10gbe", "4x1xa100-10gbe")
    )
    assert across > 5 * inside


def test_a_stripe_takes_its_share_of_the_computing() -> None:
    whole, half = (
        predict(cluster("4xt4"), recipe_of("4xt4", f"sharding.columns={columns}"), DATA)
        for columns in (1, 2)
    )
    # The same images per rank in all: half as many micro batches hold twice the ranks' columns.
    assert half.compute_seconds == pytest.approx(whole.compute_seconds, rel=0.01)


def test_inner_stripes_send_to_both_sides() -> None:
    sent = {
        columns: sum(
            each.payload_bytes
            for recipe in [recipe_of("4xt4", f"sharding.columns={columns}")]
            for each in (*forward_halos(recipe), *backward_halos(recipe))
        )
        for columns in (1, 2, 4)
    }
    assert sent[1] == 0
    assert sent[4] == pytest.approx(1.5 * sent[2])  # 3 borders of 4 ranks, against 1 of 2


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(COCO), *LARGE, "--cluster", "2x4xt4-100gbe"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["sharding"]
    assert [(each["data"], each["columns"]) for each in found] == [(8, 1), (4, 2), (2, 4), (1, 8)]
    assert all(each["fits"] for each in found)
    assert main(words) == 0
    assert "MB of halos" in capsys.readouterr().out
    assert main(["plan", str(COCO), "--cluster", "1xt4", "train.global_batch=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sharding"] == []
