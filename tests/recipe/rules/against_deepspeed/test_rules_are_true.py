"""Each rule of `check` against the real DeepSpeed, torch and launcher: what it says of a recipe is what happens.

When DeepSpeed is upgraded and a rule has become untrue, its test here fails.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from tests.conftest import HAS_CPU_ADAM, REPOSITORY, as_yolo
from tests.recipe.rules.against_deepspeed.case import Case
from tests.recipe.rules.against_deepspeed.evidence import Evidence
from tests.recipe.rules.against_deepspeed.of_deepspeed import OF_DEEPSPEED
from tests.recipe.rules.against_deepspeed.pair import RanksOfTest
from tests.training.conftest import Ended
from yolo.architecture import COCO_ANCHORS
from yolo.communication.sharding.column_group import ColumnGroup
from yolo.communication.sharding.halo import Halo, with_halo
from yolo.model import YOLOv5
from yolo.planner.plan import choose
from yolo.recipe.load.merge import load_recipe
from yolo.recipe.resolve.resolve import ResolvedRecipe, resolve
from yolo.recipe.rules.engine import RULES

pytestmark = pytest.mark.slow
Run = Callable[..., Ended]
BY_NAME = {rule.__name__: rule for rule in RULES}


def findings(name: str, settings: tuple[str, ...], world_size: int = 2) -> list[str]:
    """Keys in which a rule finds something."""
    resolved = unruled(settings, world_size)
    return [".".join(finding.key) for finding in BY_NAME[name](resolved)]


def unruled(settings: tuple[str, ...], world_size: int = 2) -> ResolvedRecipe:
    case = Case(settings)
    return resolve(load_recipe(case.recipe, case.overrides), world_size, world_size)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], RanksOfTest]]:
    """Ranks, started where a test first asks for so many."""
    groups: dict[int, RanksOfTest] = {}

    def of(ranks: int) -> RanksOfTest:
        if ranks not in groups:
            groups[ranks] = RanksOfTest(tmp_path_factory.mktemp("ranks"), ranks).__enter__()
        return groups[ranks]

    yield of
    for each in groups.values():
        each.__exit__(None, None, None)


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param(each, id=f"{each.name}-{' '.join(each.settings)}"[:120])
        for each in OF_DEEPSPEED
    ],
)
def test_a_rule_says_what_happens(
    started: Callable[[int], RanksOfTest], evidence: Evidence
) -> None:
    assert findings(evidence.name, evidence.settings, evidence.ranks)
    if evidence.name == "offloading_is_fast_with_adamw_only" and not HAS_CPU_ADAM:
        pytest.skip("torch builds no C++ extension in a path with a space")
    evidence.holds(started(evidence.ranks))


def test_powersgd_follows_plain_averaging_under_fp16_too(
    started: Callable[[int], RanksOfTest],
) -> None:
    """No rule forbids it: an overflow empties its error feedback."""
    fp16 = ("precision.dtype=fp16", "train.gradient_clipping=1000")
    whole = ("communication.reducer=powersgd", "communication.powersgd_start_step=2")
    overflow = tuple((rank, 5, 1e9) for rank in (0, 1))
    seen = [
        started(2)(Case((*fp16, *how), steps=8, factors=overflow))
        for how in ((), (*whole, "communication.powersgd_rank=1000"))
    ]
    assert seen[0].taken == seen[1].taken
    assert not seen[0].taken[5]
    assert seen[0].taken[-2:] == [True, True]
    assert seen[1].moved == pytest.approx(seen[0].moved, rel=0.01)


# --- rules on the run around the exchange: whole runs, with and without what is said to do nothing ----------------

PLAIN = (
    *("train.ema=false", "data.augmentation.mosaic=0.0", "tracking.wandb.mode=disabled"),
    *("train.warmup_epochs=0", "evaluation.every_epochs=2", "checkpoint.every_epochs=2"),
)
WITHOUT_EFFECT = {
    "only_several_nodes_can_become_fewer": ("cluster.least_nodes=1",),
    "warm_up_settings_need_warm_up": (
        *("train.warmup_min_steps=3", "train.warmup_momentum=0.5", "train.warmup_bias_lr=0.1"),
    ),
    "adam_has_no_momentum_to_warm_up": ("train.warmup_momentum=0.5",),
    "ema_settings_need_ema": ("train.ema_decay=0.5", "train.ema_ramp_steps=1"),
    "mixup_blends_mosaics": ("data.augmentation.mixup=1.0",),
    "disabled_wandb_writes_nothing": (
        "tracking.wandb.project=elsewhere",
        "tracking.wandb.tags=[a]",
    ),
    "evaluation_must_come_before_the_end": (
        "evaluation.every_epochs=5",
        "checkpoint.every_epochs=5",
    ),
    "only_coco_has_image_folders": ("data.images=no_such_folder", "data.val_images=none"),
    "only_shards_have_a_shuffle_buffer": ("data.shuffle_buffer=1",),
}
MOSAIC_OFF = "data.augmentation.mosaic_off_epochs=2"


def outcome(ended: Ended) -> dict[str, Any]:
    """What a run came to: its weights' bytes, its evaluations, and its losses."""
    rows = ended.metrics()
    weights = load_file(ended.folder / "weights" / "last.safetensors")
    clock = ("seconds", "per_second", "time", "wall")
    return {
        "weights": {name: tensor.tobytes() for name, tensor in weights.items()},
        "rows": [
            {key: value for key, value in row.items() if not any(word in key for word in clock)}
            for row in rows
        ],
        "wandb": (ended.folder / "wandb").exists(),
    }


def test_a_run_does_not_see_what_is_said_to_have_no_effect(
    run: Run, small_demo: Path, tmp_path: Path
) -> None:
    data = as_yolo(small_demo, tmp_path / "yolo")
    plain = outcome(run("recipes/demo.yaml", *data, *PLAIN))
    every = tuple(word for words in WITHOUT_EFFECT.values() for word in words)
    for name, words in WITHOUT_EFFECT.items():
        assert findings(name, (*data, *PLAIN, *words, "train.epochs=2")), name
    with_all = outcome(run("recipes/demo.yaml", *data, *PLAIN, *every))
    assert with_all == plain
    assert not plain["wandb"]
    half, always = (
        (*data, *PLAIN, f"data.augmentation.mosaic={share}", MOSAIC_OFF) for share in (0.5, 1.0)
    )
    assert findings("mosaic_must_have_epochs_left", (*always, "train.epochs=2"))
    assert outcome(run("recipes/demo.yaml", *half)) == outcome(run("recipes/demo.yaml", *always))


def test_warm_up_is_cut_at_half_of_the_run(run: Run) -> None:
    whole_run = ("train.warmup_epochs=2", "train.warmup_min_steps=0")
    assert findings("warm_up_must_end", (*whole_run, "train.epochs=2"))
    half = ("train.warmup_epochs=1", "train.warmup_min_steps=0")
    assert outcome(run("recipes/demo.yaml", *whole_run)) == outcome(run("recipes/demo.yaml", *half))


# --- rules on torch's SyncBatchNorm, on the launcher, and on our own choice --------------------------------------


def test_sync_batchnorm_exchanges_in_every_layer_with_its_node_unless_a_rank_is_alone_there(
    launch_worker: Callable[..., Any],
) -> None:
    asked = ("model.sync_batchnorm=true", "cluster.backend=nccl")
    name = "sync_batchnorm_needs_several_ranks_per_node"
    assert findings(name, asked, world_size=1)
    assert findings(name, (*asked, "cluster.nodes=2", "cluster.processes_per_node=1"))
    assert not findings(name, (*asked, "cluster.processes_per_node=2"))
    columns = ("sharding.columns=2", "model.image_size=128")
    assert findings(name, (*asked, "cluster.processes_per_node=2", *columns))
    assert not findings(name, (*asked, *columns), world_size=4)
    for alone in ("communication.sync_every=4", "optimizer.type=ZeroOneAdam"):
        name = "local_steps_exclude_sync_batchnorm"
        assert findings(name, (*asked, alone))
    found = launch_worker("sync_batchnorm", ranks=4)
    assert found["layers"] == 57
    assert found["ranks, as bits"] == [0b0011, 0b0011, 0b1100, 0b1100]
    assert all("the nodes have 1 and 2 ranks" in each for each in found["uneven nodes"])
    # Two roundings each; corrections in 16 bits would add a third.
    print(found["gradients"])
    assert found["gradients"]["torch.bfloat16"] < 3.6e-3
    assert found["gradients"]["torch.float16"] < 4.5e-4


@pytest.mark.launcher
def test_the_launcher_hands_the_key_to_no_other_machine_unless_a_file_says_so(
    tmp_path: Path,
) -> None:
    """The real `deepspeed`, with an ssh and a pdsh that write down what they are asked to run."""
    settings = (
        *("cluster.nodes=2", "cluster.processes_per_node=1", "cluster.hostfile=hosts"),
        "tracking.wandb.mode=online",
    )
    assert findings("the_launcher_forwards_no_api_key", settings)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, does in (("ssh", "echo 10.0.0.1"), ("pdsh", f'echo "$@" > {tmp_path}/asked')):
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "hosts").write_text("one slots=1\ntwo slots=1\n")

    def asked() -> str:
        launcher = Path(sys.executable).with_name("deepspeed")
        subprocess.run(
            [str(launcher), "--hostfile", "hosts", "--num_nodes", "2", "train.py"],
            cwd=tmp_path,
            env=os.environ
            | {"PATH": f"{programs}:{os.environ['PATH']}", "WANDB_API_KEY": "secret"}
            | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPOSITORY)},
            check=True,
            capture_output=True,
            timeout=60,
        )
        return (tmp_path / "asked").read_text()

    command = asked()
    assert "deepspeed.launcher.launch" in command
    assert "secret" not in command
    (tmp_path / ".deepspeed_env").write_text("WANDB_API_KEY=secret\n")
    assert "export WANDB_API_KEY=secret" in asked()


def test_nothing_can_be_chosen_without_a_profile() -> None:
    assert findings("an_automatic_strategy_needs_a_profile", ("strategy=auto",))
    with pytest.raises(AssertionError):
        choose(unruled(("strategy=auto",)))


def test_the_network_refuses_what_its_levels_do_not_fit() -> None:
    assert findings(
        "image_size_is_a_multiple_of_the_largest_stride",
        ("model.variant=n6", "model.image_size=96"),
    )
    with pytest.raises(ValueError, match="multiples of 64"):
        YOLOv5("n6", 3)(torch.rand(1, 3, 96, 96))
    anchors = f"model.anchors={json.dumps(COCO_ANCHORS)}"
    assert findings("every_level_has_anchors", ("model.variant=n6", anchors))
    with pytest.raises(ValueError, match=r"expected \(4, 3, 2\)"):
        YOLOv5("n6", 3, COCO_ANCHORS)


def test_a_stripe_has_whole_cells_and_more_of_them_than_a_kernel_reads_beside_it() -> None:
    def found(columns: int, size: int) -> list[str]:
        sizes = (f"sharding.columns={columns}", f"model.image_size={size}", "train.global_batch=8")
        return findings("each_stripe_has_whole_cells", sizes, world_size=4)

    assert found(2, 160)
    with pytest.raises(ValueError, match="multiples of 32"):
        YOLOv5("n", 3)(ColumnGroup(0, 2).stripe(torch.rand(1, 3, 160, 160)))
    assert found(2, 64)
    of_sppf = torch.rand(1, 8, 2, 1)
    with pytest.raises(ValueError, match="a stripe of 1 columns is narrower than the 2"):
        with_halo(of_sppf, Halo.of(5, 1, 2), ColumnGroup(0, 2))
    assert not found(2, 128) and not found(4, 256) and not found(1, 160)


def test_no_rule_is_without_evidence() -> None:
    shown = {each.name for each in OF_DEEPSPEED} | set(WITHOUT_EFFECT)
    shown |= {
        *("mosaic_must_have_epochs_left", "warm_up_must_end"),
        *("sync_batchnorm_needs_several_ranks_per_node", "local_steps_exclude_sync_batchnorm"),
        *("the_launcher_forwards_no_api_key", "an_automatic_strategy_needs_a_profile"),
        # The others are our own choice: tests/recipe/rules/test_sharding.py.
        *("each_stripe_has_whole_cells", "an_image_stays_inside_a_node"),
        *("fewer_nodes_hold_fewer_shares", "mpi_is_started_by_mpi"),  # the last: test_core.py
        *("image_size_is_a_multiple_of_the_largest_stride", "every_level_has_anchors"),
    }
    assert shown == set(BY_NAME)
    assert len(shown) >= 40
