"""Sharding by sample and by feature, small: calibrated, predicted and measured on emulated hosts."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ON_A_PROCESSOR, REPOSITORY, needs_a_cluster
from tests.forking.server import run_forked
from yolo.bench.sharding.__main__ import ShardingRow, main, markdown


@pytest.mark.slow(40)
@needs_a_cluster
def test_meshes_are_predicted_and_measured(tmp_path: Path) -> None:
    command = (
        *(sys.executable, "-m", "yolo.bench.sharding", "--hosts", "2", "--bandwidths", "300"),
        *("--columns", "1,2", "--images", "2", "--pixels", "128", "--steps", "2", "--rounds", "1"),
        *("--out", str(tmp_path)),
    )
    ran = run_forked(command, REPOSITORY, ON_A_PROCESSOR, tmp_path / "log")
    assert ran.returncode == 0, ran.stdout
    content: dict[str, Any] = json.loads((tmp_path / "sharding.json").read_text())
    rows = [ShardingRow(**row) for row in content["rows"]]
    assert [row.sharding for row in rows] == ["sample", "feature"]
    for row in rows:
        assert row.predicted_sent_bytes == pytest.approx(row.measured_sent_bytes, rel=0.01)
        assert row.predicted_interface_bytes == pytest.approx(
            row.measured_interface_bytes, rel=0.02
        )
        assert row.predicted_step_seconds > 0 < row.measured_step_seconds
    [profile] = content["profiles"]
    assert "point_to_point" in profile["measured"][0]["collectives"]
    assert "| sample | 2 x 1 |" in (tmp_path / "sharding.md").read_text()


def row(columns: int, predicted: float, measured: float) -> ShardingRow:
    return ShardingRow(
        hosts=4,
        bandwidth_mbps=100.0,
        columns=columns,
        predicted_step_seconds=predicted,
        measured_step_seconds=measured,
        measured_rounds=(measured,),
        predicted_sent_bytes=1e6,
        measured_sent_bytes=1e6,
        predicted_interface_bytes=1e6,
        measured_interface_bytes=1e6,
    )


def test_the_table_says_whether_the_ranking_was_right() -> None:
    right = markdown([row(1, 1.0, 1.1), row(2, 2.0, 2.2), row(4, 3.0, 2.9)])
    assert "the fastest first: sample, both, feature; as predicted" in right
    wrong = markdown([row(1, 1.0, 1.1), row(2, 2.0, 2.2), row(4, 3.0, 2.1)])
    assert "the fastest first: sample, feature, both; predicted: sample, both, feature" in wrong


def test_a_mesh_that_cannot_be_is_an_error_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--columns", "3"]) == 2
    assert "4 ranks do not divide" in capsys.readouterr().err
