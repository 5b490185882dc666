"""The training step under each mesh of data and columns; test_resume.py kills and resumes such a run."""

from collections.abc import Callable
from typing import Any

import pytest

Found = dict[str, Any]

SAMPLES = "sharding.columns=1 model.sync_batchnorm=true"
"""Whole images, with BatchNorm's statistics of all ranks."""
HYBRID = "sharding.columns=2 model.sync_batchnorm=true"
COLUMNS = "sharding.columns=4"
IMAGE_BY_IMAGE = "train.micro_batch=1"
"""Its statistics are of one image, if the ranks of an image alone share them."""
EXACT = {
    HYBRID: SAMPLES,
    COLUMNS: SAMPLES,
    f"{HYBRID} zero.stage=1": SAMPLES,
    f"{HYBRID} zero.stage=2": SAMPLES,
    f"{COLUMNS} communication.reducer=overlapped": SAMPLES,
    # One data rank: a local step is a synchronised one, if its images' ranks agree on it.
    f"{COLUMNS} communication.sync_every=2": SAMPLES,
    f"sharding.columns=2 {IMAGE_BY_IMAGE}": f"{COLUMNS} {IMAGE_BY_IMAGE}",
}
"""What must be learnt by each case: what the other one does. Two accumulation steps stand against four in the last."""
APART = 0.15
"""Mostly 0.0003, by rounding. If an edge of a predicted box lies within rounding of a true one's, CIoU's gradient jumps, and
0.05 was met. Other statistics give 1.3. That float64 agrees to 13 digits: tests/communication/sharding/test_columns.py."""
POWERSGD = f"{HYBRID} communication.reducer=powersgd communication.powersgd_start_step=2"


@pytest.fixture(scope="module")
def trained(launch_worker_once: Callable[..., Found]) -> Found:
    cases = dict.fromkeys((*EXACT.values(), *EXACT, POWERSGD))
    return launch_worker_once("sharded_steps", *cases, ranks=4)


@pytest.mark.slow(40)
@pytest.mark.parametrize("case", EXACT)
def test_the_same_is_learnt_from_the_same_global_batches(trained: Found, case: str) -> None:
    expected, found = trained[EXACT[case]], trained[case]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-3)
    assert found["apart"][EXACT[case]] < APART


@pytest.mark.slow
def test_a_compressed_exchange_learns_about_the_same(trained: Found) -> None:
    found, expected = trained[POWERSGD], trained[SAMPLES]
    assert found["losses"] == pytest.approx(expected["losses"], rel=0.05)
    assert 1e-3 < found["apart"][SAMPLES] < 1
