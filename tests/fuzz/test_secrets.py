"""W&B's key stays where it was given: a run that has it leaves it in none of its files, and says it nowhere."""

from pathlib import Path

import pytest

from tests.training.conftest import DEMO, running_in
from yolo.data.demo import DemoSettings, generate_demo

KEY = "feedfacefeedfacefeedfacefeedfacefeedface"

pytestmark = pytest.mark.slow


def test_a_run_leaves_no_key_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_demo(tmp_path / "demo", DemoSettings(train_images=8, val_images=4, size=96))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    run = running_in(tmp_path, tmp_path / "demo")
    ended = run(DEMO, "tracking.wandb.mode=offline", "train.epochs=1")
    assert KEY not in ended.output
    files = [path for path in ended.folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"recipe.yaml", "deepspeed.json", "metrics.jsonl", "report.html"} <= names
    assert any(path.suffix == ".wandb" for path in files) and "last.safetensors" in names
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
