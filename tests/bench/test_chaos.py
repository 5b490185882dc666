"""What is promised of runs that things happen to, on emulated hosts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, needs_a_cluster

pytestmark = [needs_a_cluster, pytest.mark.slow(240), pytest.mark.launcher]


def test_every_promise_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    command = [sys.executable, "-m", "yolo.bench.chaos", "--kills", "2", "--out", str(out)]
    ran = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["kills"] == found["resumed"] == len(found["events"]) == 2
    assert found["bit_identical"] and found["checkpoints_lost"] == found["left_running"] == 0
    assert found["link_cut_for_a_while"]["finished"] and found["link_cut_for_good"]["in_time"]
    assert found["disk_full"]["said_so"] and found["disk_full"]["bit_identical"]
    assert found["nan"]["poisoned_micro_batches"] > 0 and found["nan"]["rollbacks"] == 0
