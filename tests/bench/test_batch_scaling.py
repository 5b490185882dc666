import json
import math
import sys
from pathlib import Path

import pytest

from tests.conftest import ON_A_PROCESSOR, REPOSITORY
from tests.forking.server import run_forked
from yolo.bench.batch_scaling import BatchRow, main, markdown, spread
from yolo.data.demo import DemoSettings, generate_demo

DEMO = str(REPOSITORY / "recipes" / "demo.yaml")


def row(batch: int, seed: int, ap: float) -> BatchRow:
    return BatchRow(batch, seed, 0.01, 3, 10, ap, 2 * ap, 1e6, 5.0)


def test_the_spread_is_between_means_over_seeds() -> None:
    rows = [row(16, 0, 0.30), row(16, 1, 0.40), row(64, 0, 0.36), row(64, 1, 0.38)]
    assert spread(rows) == pytest.approx(0.02)
    table = markdown(rows)
    assert "| 16 | 0.01 | 10 | 0.300, 0.400 |" in table
    assert "AP differs by 0.020 between the batches, 3 epochs each" in table


def test_a_recipe_that_names_no_base_batch_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([DEMO]) == 2
    assert "train.base_batch is not set" in capsys.readouterr().err


def test_batches_are_whole_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--batches", "16,many", DEMO]) == 2
    assert "--batches 16,many: expected whole numbers" in capsys.readouterr().err


@pytest.mark.slow
def test_each_batch_is_trained_with_its_own_rate(tmp_path: Path) -> None:
    generate_demo(tmp_path / "demo", DemoSettings(train_images=16, val_images=4, size=96))
    settings = (
        *(f"data.root={tmp_path / 'demo'}", "model.image_size=64", "train.epochs=1"),
        *("precision.dtype=fp32", "train.base_batch=4", "cluster.processes_per_node=2"),
        *("train.schedule=linear", "train.final_lr_fraction=1.0", "train.warmup_epochs=0"),
    )
    program = (
        sys.executable,
        "-m",
        "yolo.bench.batch_scaling",
        "--batches",
        "4,16",
        "--out",
        "results",
    )
    ran = run_forked([*program, DEMO, *settings], tmp_path, ON_A_PROCESSOR, tmp_path / "log")
    assert ran.returncode == 0, ran.stdout
    small, large = json.loads((tmp_path / "results" / "batches.json").read_text())["rows"]
    assert (small["steps"], large["steps"]) == (4, 1)
    assert large["lr"] == pytest.approx(2 * small["lr"])
    assert small["wire_bytes_per_rank"] == pytest.approx(4 * large["wire_bytes_per_rank"], rel=0.01)
    taken = [
        json.loads(line)["train/learning_rate"]
        for path in sorted((tmp_path / "runs" / "batches").glob("2*/metrics.jsonl"))
        for line in path.read_text().splitlines()
        if "train/learning_rate" in line
    ]
    assert {round(lr, 9) for lr in taken} == {round(each["lr"], 9) for each in (small, large)}
    assert all(math.isfinite(each["ap"]) for each in (small, large))
