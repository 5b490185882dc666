from pathlib import Path

import pytest

from yolo.bench.streaming import measure_streaming
from yolo.data.demo import DemoSettings, generate_demo


def test_each_rank_reads_its_part_of_the_shards_once_an_epoch(tmp_path: Path) -> None:
    generate_demo(tmp_path, DemoSettings(train_images=48, val_images=1, size=96))
    sizes = ("model.image_size=64", "train.global_batch=8", "data.workers=1")
    figures = measure_streaming(Path("recipes/demo.yaml"), (f"data.root={tmp_path}", *sizes))
    assert min(figures.streamed, figures.from_files, figures.from_memory) > 0
    # 48 images are whole steps, so that none is read twice; which rank reads which shards changes with the epoch.
    assert sum(figures.bytes_read) == pytest.approx(figures.bytes_in_shards, abs=2)
    for read in figures.bytes_read:
        assert read == pytest.approx(figures.bytes_in_shards / 2, rel=0.1)
    assert "together 100.0% of the" in figures.lines()[1]
