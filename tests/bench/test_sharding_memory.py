from pathlib import Path

import pytest

from tests.conftest import ON_A_PROCESSOR, REPOSITORY, launcher_command
from tests.forking.server import run_forked


def peak_megabytes(folder: Path, columns: int) -> float:
    """Per rank, of one image of 1,536 pixels."""
    out = folder / f"{columns}.txt"
    command = launcher_command(columns, "--module", "yolo.bench.sharding.memory", "--out", str(out))
    ran = run_forked(command, REPOSITORY, ON_A_PROCESSOR, out.with_suffix(".log"))
    assert ran.returncode == 0, ran.stdout[-5000:]
    return float(out.read_text())


@pytest.mark.slow(30)
def test_a_rank_needs_little_more_than_its_columns_share_of_the_memory(tmp_path: Path) -> None:
    whole = peak_megabytes(tmp_path, 1)
    assert whole > 500
    assert 0.45 * whole < peak_megabytes(tmp_path, 2) <= 0.56 * whole
    assert 0.2 * whole < peak_megabytes(tmp_path, 4) <= 0.32 * whole
