import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ON_A_PROCESSOR, REPOSITORY
from tests.forking.server import run_forked
from yolo.bench import accuracy
from yolo.bench.accuracy import main, markdown, stated
from yolo.data.demo import DemoSettings, generate_demo
from yolo.model import YOLOv5
from yolo.model.io.weights import load_weights, weights_content
from yolo.planner.accuracy import MeasuredAccuracy
from yolo.recipe import ResolvedRecipe, prepare
from yolo.recipe.render.resolved_yaml import effective_yaml
from yolo.training.checkpointing.run_directory import RunDirectory

RECIPES = REPOSITORY / "recipes"


@pytest.fixture
def trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[tuple[str, int]]:
    """What was trained, in a folder with the demo's data; instead of training, a made-up summary is written."""
    generate_demo(tmp_path / "data/demo", DemoSettings(train_images=4, val_images=2, size=32))
    (tmp_path / "recipes").symlink_to(RECIPES)
    monkeypatch.chdir(tmp_path)
    runs: list[tuple[str, int]] = []

    def pretend(resolved: ResolvedRecipe, settings: Sequence[str], run: RunDirectory) -> None:
        runs.append((run.path.parent.name, resolved.recipe.train.seed))
        run.create()
        summary: dict[str, Any] = dict.fromkeys(
            ("steps", "ap50", "wire_bytes_per_step_per_rank", "wire_bytes_per_rank"), 10
        )
        summary |= {"ap": 0.5 - 0.1 * ("powersgd" in str(run.path)), "wall_seconds": 60.0}
        run.summary.write_text(json.dumps(summary))
        run.recipe.write_text(effective_yaml(resolved))

    monkeypatch.setattr(accuracy, "run_with_restarts", pretend)
    return runs


def test_every_strategy_of_a_seed_comes_before_the_next_seed(
    trained: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--seeds", "0,1"]) == 0
    names = ["reference", *sorted(path.stem for path in (RECIPES / "communication").glob("*.yaml"))]
    assert trained == [(name, seed) for seed in (0, 1) for name in names]
    assert "| powersgd | 0.400, 0.400 | 0.400 | -0.100 |" in capsys.readouterr().out


def test_a_strategy_that_loses_more_than_is_allowed_fails(
    trained: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--seeds", "0", "--strategies", "powersgd,overlapped", "--within"]
    assert main([*options, "0.11"]) == 0
    assert main([*options, "0.09"]) == 2
    assert "more than 0.09 AP lost against the reference: powersgd 0.100" in capsys.readouterr().err


def test_runs_start_from_weights_without_their_head(
    trained: list[tuple[str, int]], tmp_path: Path
) -> None:
    model = YOLOv5("n", 4)
    (tmp_path / "demo.safetensors").write_bytes(weights_content(model, {}))
    options = ["--seeds", "0", "--strategies", "overlapped", "--backbone", "demo.safetensors"]
    assert main(options) == 0
    loaded = load_weights(tmp_path / "results/backbone.safetensors", YOLOv5("n", 4))
    assert "model.24.m.0.weight" in str(loaded)
    recipe = (tmp_path / "runs/accuracy/overlapped").glob("*/recipe.yaml")
    assert "results/backbone.safetensors" in next(recipe).read_text()
    assert main([*options[:-1], "missing.safetensors"]) == 2


def test_finished_runs_are_not_repeated(trained: list[tuple[str, int]]) -> None:
    both = ["--seeds", "0,1", "--strategies", "powersgd,overlapped"]
    assert main(["--seeds", "0", "--strategies", "powersgd"]) == 0
    assert main(both) == 0
    assert trained[2:] == [("overlapped", 0)] + [
        (name, 1) for name in ("reference", "powersgd", "overlapped")
    ]
    assert main(both) == 0
    assert len(trained) == 6


def test_another_set_up_needs_another_file(
    trained: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--strategies", "powersgd"]) == 0
    assert main(["--strategies", "powersgd", "train.epochs=3"]) == 2
    assert "has runs of another set-up" in capsys.readouterr().err


def test_a_strategy_is_put_on_top_of_another_base() -> None:
    lamb = stated(RECIPES / "communication/onebit_lamb.yaml")
    assert lamb == ("optimizer.type=OneBitLamb", "optimizer.lr=0.01")
    adam = stated(RECIPES / "communication/onebit_adam.yaml")
    recipe = prepare(RECIPES / "bccd.yaml", adam).resolved.recipe
    assert (recipe.optimizer.type, recipe.optimizer.lr) == ("OneBitAdam", 0.002)


def test_an_unknown_strategy_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--strategies", "powersdg"]) == 2
    assert "--strategies powersdg: expected some of reference," in capsys.readouterr().err


@pytest.mark.slow(30)
def test_recipes_are_trained_and_measured(tmp_path: Path) -> None:
    generate_demo(tmp_path / "demo", DemoSettings(train_images=16, val_images=4, size=96))
    (tmp_path / "recipes").symlink_to(RECIPES)
    settings = (
        *(f"data.root={tmp_path / 'demo'}", "model.image_size=64", "train.epochs=1"),
        *("precision.dtype=fp32", "train.global_batch=4", "cluster.processes_per_node=2"),
    )
    options = ("--strategies", "overlapped_bf16", "--seeds", "3")
    program = [sys.executable, "-m", "yolo.bench.accuracy", *options, *settings]
    ran = run_forked(program, tmp_path, ON_A_PROCESSOR, tmp_path / "log")
    assert ran.returncode == 0, ran.stdout
    measured = MeasuredAccuracy.read(tmp_path / "results/accuracy-demo.json")
    plain, halved = measured.runs
    assert (plain.strategy, halved.strategy) == ("reference", "overlapped_bf16")
    assert (plain.key, halved.key) == ("stage0", "overlapped.bf16")
    assert halved.settings == {"communication.data_type": "bf16"}
    assert plain.steps == halved.steps == 4
    assert (plain.seed, plain.precision) == (3, "fp32")
    ratio = plain.wire_bytes_per_step_per_rank / halved.wire_bytes_per_step_per_rank
    assert ratio == pytest.approx(2, rel=0.02)
    assert (measured.setup.images, measured.setup.ranks, measured.setup.epochs) == (16, 2, 1)
    assert markdown(measured) == (tmp_path / "results/accuracy-demo.md").read_text()
    assert "| 1 / 2.0 |" in markdown(measured)
