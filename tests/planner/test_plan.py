import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LIBRARIES_ALONE, REPOSITORY, processor_seconds
from tests.planner.conftest import measured_accuracy, measurement
from yolo.cli import main
from yolo.cli.plan import ALLOWED
from yolo.errors import PlanError
from yolo.planner.cost.strategies import GradientFidelity
from yolo.planner.hardware_catalog import GPUS, NETWORKS, cluster
from yolo.planner.plan import Plan, choose, make_plan
from yolo.planner.prediction import Data, predict
from yolo.planner.profile import ClusterProfile, read_profile, write_profile
from yolo.planner.scaling import scale_lines, scaling_points, write_figure
from yolo.recipe import load_recipe, prepare

COCO = REPOSITORY / "recipes/coco/yolov5l.yaml"
ADAM = ["train.global_batch=512", "optimizer.type=AdamW", "optimizer.lr=0.001"]
DATA = Data(118_287, 80)


def plan_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["plan", str(COCO), *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_prints_a_ranked_list(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan_json(capsys, *ADAM, "--cluster", "4x8xa100-10gbe")
    hours = [each["run_hours"] for each in found["ranked"]]
    assert hours[1:] == sorted(hours[1:])
    assert hours[0] <= 1.02 * min(each["run_hours"] for each in found["ranked"] if each["keeps_ap"])
    for each in found["ranked"]:
        parts = ("compute", "codec", "exposed", "straggler", "data_wait")
        total = sum(each[f"{part}_seconds"] for part in parts)
        assert each["step_seconds"] == pytest.approx(total, rel=1e-6)
        assert each["gpu_hours"] == pytest.approx(32 * each["run_hours"])
        memory = each["memory"]
        assert memory["total"] == pytest.approx(
            sum(v for k, v in memory.items() if k != "total"), rel=1e-6
        )
        assert memory["activations"] > 0.7 * memory["total"]  # of a detector


def test_a_slow_network_asks_for_compression_and_a_fast_one_for_nothing() -> None:
    slow = make_plan(
        load_recipe(COCO, ADAM),
        cluster("4x8xa100-1gbe"),
        data=DATA,
        measured=measured_accuracy(),
    )
    assert slow.first.fidelity is GradientFidelity.COMPRESSED
    fast = make_plan(load_recipe(COCO, ADAM), cluster("4x8xa100-4xhdr"), data=DATA)
    assert fast.first.fidelity is GradientFidelity.SAME
    assert any("is enough" in reason for reason in fast.reasons)
    assert any("1 bit pays" in reason for reason in slow.reasons)
    assert any("does not pay" in reason for reason in fast.reasons)


def test_only_allowed_strategies_are_chosen() -> None:
    for allowed in GradientFidelity:
        plan = make_plan(load_recipe(COCO, ADAM), cluster("2x4xv100-1gbe"), allowed, DATA)
        assert all(each.fidelity <= allowed for each in plan.ranked)
        assert all(each.fidelity > allowed for each in plan.excluded)
    sgd = make_plan(
        load_recipe(COCO, ["train.global_batch=512"]), cluster("2x4xv100-1gbe"), data=DATA
    )
    assert not any("1-bit" in each.label for each in sgd.ranked)


def test_each_value_of_allow_names_a_fidelity() -> None:
    assert [GradientFidelity(value).value for value in ALLOWED] == list(ALLOWED)
    assert len(ALLOWED) == len(GradientFidelity)


def test_the_earlier_name_of_another_optimizer_is_still_allowed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--cluster", "4x8xa100-10gbe", "--allow")
    assert plan_json(capsys, *words, "otherwise") == plan_json(capsys, *words, "other-optimizer")


def test_every_strategys_settings_make_a_recipe_that_passes() -> None:
    profile = cluster("2x4xa100-10gbe")
    plan = make_plan(load_recipe(COCO, ADAM), profile, GradientFidelity.OTHER_OPTIMIZER, DATA)
    labels = [each.label for each in plan.ranked]
    assert len(labels) == len(set(labels)) >= 20
    for each in plan.ranked:
        prepare(COCO, [*ADAM, *each.overrides], profile.ranks, profile.gpus_per_node)


def test_the_recipe_as_written_is_among_them() -> None:
    overrides = [*ADAM, "communication.reducer=overlapped", "communication.bucket_size=123456"]
    plan = make_plan(load_recipe(COCO, overrides), cluster("4x8xa100-10gbe"), data=DATA)
    assert plan.as_written.overrides == ()
    assert plan.as_written.label == "as written"
    plain = make_plan(load_recipe(COCO, ADAM), cluster("4x8xa100-10gbe"), data=DATA)
    assert plain.as_written.label == "stage 0 (as written)"


def test_a_strategy_that_does_not_fit_into_memory_is_marked() -> None:
    big = ["train.global_batch=512", "train.micro_batch=64", "train.gradient_accumulation_steps=1"]
    plan = make_plan(load_recipe(COCO, big), cluster("8xt4"), data=DATA)
    assert not plan.as_written.fits
    assert plan.first.fits is any(each.fits for each in plan.ranked)


def test_more_bandwidth_never_takes_longer() -> None:
    for overrides in (ADAM, [*ADAM, "communication.reducer=overlapped"], [*ADAM, "zero.stage=2"]):
        steps = []
        for gbps in (1, 10, 100):
            profile = cluster("4x8xa100-10gbe").with_bandwidth(gbps)
            recipe = prepare(COCO, overrides, 32, 8).resolved.recipe
            steps.append(predict(profile, recipe, DATA).step_seconds)
        assert steps == sorted(steps, reverse=True)


def test_sync_batchnorm_costs_little_inside_a_node_and_the_plan_says_how_much() -> None:
    few_images = ["train.global_batch=128", "optimizer.type=AdamW", "optimizer.lr=0.001"]

    def plan_of(*overrides: str, profile: str = "4x8xa100-10gbe") -> Plan:
        return make_plan(load_recipe(COCO, [*few_images, *overrides]), cluster(profile), data=DATA)

    shared, own = plan_of(), plan_of("model.sync_batchnorm=false")
    assert shared.recipe.model.sync_batchnorm
    for label in ("PowerSGD rank 2", "1-bit Adam"):
        costs, without = (
            next(each.prediction for each in plan.ranked if each.label == label)
            for plan in (shared, own)
        )
        added = costs.step_seconds - without.step_seconds
        assert 0 < added < 0.1 * without.step_seconds  # over the world it added half
    (reason,) = (reason for reason in shared.reasons if "SyncBatchNorm" in reason)
    gained = shared.first.prediction.step_seconds - own.first.prediction.step_seconds
    assert f"SyncBatchNorm inside a node adds {gained * 1e3:.1f} ms per step" in reason
    assert not any("SyncBatchNorm" in reason for reason in own.reasons)
    # A network between nodes makes no difference to it, and a node of one rank has none.
    slower = plan_of(profile="4x8xa100-1gbe")
    assert any("adds 4.5 ms" in reason for reason in shared.reasons)
    assert any("adds 4.5 ms" in reason for reason in slower.reasons)
    assert not plan_of(profile="8x1xa100-10gbe").recipe.model.sync_batchnorm


def test_a_plan_is_made_without_torch_in_the_time_of_some_imports() -> None:
    script = (
        "import sys; from yolo.cli import main; "
        f"code = main(['plan', {str(COCO)!r}, '--cluster', '8x8xa100-25gbe', 'train.global_batch=1024']); "
        "assert not {'torch', 'deepspeed'} & set(sys.modules); sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "torch DDP, for comparison" in ran.stdout
    assert processor_seconds(script) < 15 * processor_seconds(LIBRARIES_ALONE)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("8x", "expected NODESxGPUSxGPU-NETWORK"),
        ("4x8xa101-10gbe", "Did you mean 'a100'?"),
        ("4x8xa100", "joined by what?"),
        ("4x8xa100-100gb", "Did you mean '100gbe'?"),
        ("5000x8xa100-10gbe", "1 to 1024 nodes"),
        ("nowhere/cluster.yaml", "no such file"),
    ],
)
def test_an_invalid_cluster_name_is_an_error_that_says_what_to_write(
    name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(COCO), "--cluster", name]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_plan_without_a_cluster_says_how_to_name_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(COCO)]) == 2
    assert "for which cluster?" in capsys.readouterr().err


def test_every_figure_of_the_catalogue_has_its_source() -> None:
    for accelerator, _ in GPUS.values():
        assert len(accelerator.source) > 10
    for network in NETWORKS.values():
        assert len(network.source) > 10


def test_a_profile_survives_its_file(plain: ClusterProfile, tmp_path: Path) -> None:
    measured = plain.model_copy(update={"measured": [measurement(2, 0.1, 0.09)]})
    write_profile(measured, tmp_path / "profile.yaml")
    assert read_profile(tmp_path / "profile.yaml") == measured


def test_a_profile_with_a_mistake_is_refused_with_its_key(
    plain: ClusterProfile, tmp_path: Path
) -> None:
    path = tmp_path / "profile.yaml"
    write_profile(plain, path)
    path.write_text(path.read_text().replace("memory_gb:", "memory_gib:"))
    with pytest.raises(PlanError, match="memory_gib"):
        read_profile(path)


def test_efficiency_falls_with_the_nodes_down_to_where_scaling_stops(tmp_path: Path) -> None:
    found = scaling_points(
        load_recipe(COCO, ["train.global_batch=512"]), cluster("4x8xa100-10gbe"), DATA
    )
    for each in found:
        assert each.gpus[0] == 8
        assert each.gpus[-1] == 8192
        later = list(zip(each.efficiency, each.efficiency[1:], strict=False))
        assert all(b <= a + 0.02 for a, b in later), each.strategy
    by_name = {(each.network, each.strategy): each for each in found}
    slow, fast = by_name["1 GbE", "overlapped"], by_name["InfiniBand HDR", "overlapped"]
    assert slow.stops_at == 16
    assert fast.stops_at is None
    assert any("1 GbE" in line for line in scale_lines(found))
    write_figure(found, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 20_000


def test_auto_takes_the_plans_first_choice() -> None:
    overrides = [*ADAM, "strategy=auto", "cluster.profile=4x8xa100-10gbe", "cluster.nodes=4"]
    resolved = prepare(COCO, overrides, 32, 8).resolved
    choice = choose(resolved, DATA)
    assert choice.overrides[:-1] == choice.plan.first.overrides
    settled = prepare(COCO, [*overrides, *choice.overrides], 32, 8).resolved.recipe
    assert settled.strategy == "as_written"
    assert choice.reasons[0].startswith("strategy auto: ")


@pytest.mark.parametrize(
    ("backend", "of_profile", "is_warned"),
    [
        ("auto", "nccl", False),
        ("auto", "gloo", False),
        ("auto", "mpi", True),
        ("gloo", "mpi", True),
        ("mpi", "gloo", True),
        ("mpi", "mpi", False),
    ],
)
def test_a_plan_over_another_backend_than_the_recipes_is_a_warning(
    backend: str, of_profile: str, is_warned: bool
) -> None:
    profile = cluster("2x1xa100-10gbe").model_copy(update={"backend": of_profile})
    recipe = load_recipe(COCO, [*ADAM, f"cluster.backend={backend}"])
    warnings = [each for each in make_plan(recipe, profile, data=DATA).reasons if "warning" in each]
    assert bool(warnings) is is_warned
    if warnings:
        assert f"are {of_profile}'s, and cluster.backend is {backend}: set it to" in warnings[0]
