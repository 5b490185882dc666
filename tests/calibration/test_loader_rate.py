from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yolo.data.demo import DemoSettings, generate_demo


@pytest.mark.slow
def test_an_image_that_one_rank_cannot_read_ends_the_measurement_on_all(
    tmp_path: Path, launch_worker: Callable[..., Any]
) -> None:
    valid, damaged = tmp_path / "valid", tmp_path / "damaged"
    for folder in (valid, damaged):
        generate_demo(folder, DemoSettings(train_images=8, val_images=1, size=96))
    for image in damaged.glob("images/train-*"):
        image.write_bytes(b"no image")
    assert launch_worker("unreadable", str(valid), str(damaged)) == [None, None]
    assert all(rate > 0 for rate in launch_worker("unreadable", str(valid), str(valid)))
