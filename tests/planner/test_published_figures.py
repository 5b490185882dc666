"""Published figures, predicted from the catalogue's profiles only: nothing measured here is used."""

from dataclasses import replace

import pytest

from tests.conftest import REPOSITORY
from yolo.planner.cost.compute import local_work
from yolo.planner.cost.message_sizes import PlanContext
from yolo.planner.cost.model_stats import Network, Tensor, yolov5
from yolo.planner.cost.strategies import strategy_of
from yolo.planner.hardware_catalog import cluster
from yolo.planner.prediction import Data, Prediction, predict_ddp, predict_run
from yolo.planner.profile import Accelerator, ClusterProfile, Link
from yolo.recipe import prepare
from yolo.recipe.schema.recipe import Recipe

COCO = Data(images=118_287, classes=80)
ULTRALYTICS_MS = {1: 167.6, 2: 190.2, 4: 193.2, 8: 204.5}
"""YOLOv5l, 16 images a GPU, DDP on A100: seconds of an epoch over its steps (Ultralytics' multi-GPU page)."""

BERT_LARGE = 336e6
BERT_MS = {"forward": 35.7, "backward": 60.8, "step": 75.6}
BERT_ALL_REDUCE_MS = 2275.0
"""A step of BERT-Large on 64 V100, 16 sequences each, Ethernet: 1-bit Adam's own profile (Tang et al., 2021)."""
IPERF_GBPS = 4.1
"""What one TCP stream reached there, on cards of 40 Gbit/s: each rank's stream, so each rank is a node here."""
WARM_UP = 0.15


def _recipe(text: list[str], ranks: int) -> Recipe:
    path = REPOSITORY / "recipes/coco/yolov5l.yaml"
    return prepare(path, text, ranks, ranks).resolved.recipe


@pytest.mark.parametrize("gpus", ULTRALYTICS_MS)
def test_ddp_on_a100_takes_what_was_published(gpus: int) -> None:
    batch = [f"train.global_batch={16 * gpus}", "train.micro_batch=16", "precision.dtype=bf16"]
    predicted = predict_ddp(cluster(f"{gpus}xa100"), _recipe(batch, gpus), COCO)
    assert predicted.step_seconds * 1e3 == pytest.approx(ULTRALYTICS_MS[gpus], rel=0.15)


def test_one_bit_adam_gains_on_slow_ethernet_what_was_published() -> None:
    plain = _bert("AdamW")
    assert plain.exposed_seconds * 1e3 == pytest.approx(BERT_ALL_REDUCE_MS, rel=0.2)
    compressed = _bert("OneBitAdam")
    in_its_phase = plain.step_seconds / compressed.step_seconds
    assert in_its_phase == pytest.approx(6.6, rel=0.15)
    end_to_end = plain.run_hours / compressed.run_hours
    assert end_to_end == pytest.approx(3.5, rel=0.15)


def test_one_bit_adam_gains_nothing_where_the_network_is_fast() -> None:
    plain, compressed = _bert("AdamW", gbps=800.0), _bert("OneBitAdam", gbps=800.0)
    assert plain.run_hours < 1.15 * compressed.run_hours


def _bert(optimizer: str, gbps: float = IPERF_GBPS) -> Prediction:
    """BERT-Large, of which only the number of its elements and the published times of a step go in."""
    ranks, steps = 64, 10_000
    profile = ClusterProfile(
        name="16 nodes of 4 V100",
        nodes=ranks,
        gpus_per_node=1,
        accelerator=_v100(),
        within=_link(1e4),
        between=_link(gbps),
    )
    freeze = [f"optimizer.freeze_step={round(WARM_UP * steps)}"] if "Bit" in optimizer else []
    recipe = _recipe(
        [
            f"optimizer.type={optimizer}",
            "communication.data_type=fp16",
            "train.global_batch=1024",
            *freeze,
        ],
        ranks,
    )
    network = _bert_network()
    work = replace(
        local_work(profile, recipe, network, strategy_of(recipe)),
        forward_seconds=BERT_MS["forward"] / 1e3,
        backward_seconds=BERT_MS["backward"] / 1e3,
        update_seconds=BERT_MS["step"] / 1e3,
        jitter=0.0,
    )
    context = PlanContext(recipe, network, work, ranks, is_nccl=True, steps=steps)
    return predict_run(profile, context, strategy_of(recipe).phases_of(context, warmup_share=0.0))


def _v100() -> Accelerator:
    return cluster("1xv100").accelerator


def _link(gbps: float) -> Link:
    return Link(
        name="Ethernet", bandwidth_gbps=gbps, efficiency=1.0, latency_us=50.0, source="iperf"
    )


def _bert_network() -> Network:
    like = yolov5("l")
    tensor = Tensor((1024, round(BERT_LARGE / 1024)), "weights", 1.0)
    return replace(like, name="BERT-Large", tensors=(tensor,), ready_order=(0,))
