"""`yolo check` opens the weights: what would stop the run stops the check."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from yolo.cli import main
from yolo.model import YOLOv5
from yolo.model.io.weights import save_weights

DEMO = str(REPOSITORY / "recipes/demo.yaml")
"""Its network is yolov5n."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of yolov5n for three classes, as safetensors and as a state dict with and without names."""
    folder = tmp_path_factory.mktemp("weights")
    network = YOLOv5("n", 3)
    save_weights(folder / "n.safetensors", network, {"class_names": json.dumps(list("abc"))})
    torch.save({"model": network.state_dict(), "names": list("abc")}, folder / "named.pt")
    torch.save(network.state_dict(), folder / "nameless.pt")
    content = (folder / "n.safetensors").read_bytes()
    (folder / "torn.safetensors").write_bytes(content[:-1000])
    (folder / "x.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    return folder


@pytest.mark.parametrize("name", ["n.safetensors", "named.pt"])
def test_weights_that_fit_pass(folder: Path, name: str) -> None:
    assert main(["check", DEMO, f"model.weights={folder / name}"]) == 0


@pytest.mark.parametrize(
    ("name", "variant", "message"),
    [
        ("gone.pt", "n", "gone.pt: no such file"),
        ("torn.safetensors", "n", "torn.safetensors: not a valid safetensors file"),
        ("x.onnx", "n", "x.onnx: is an ONNX model"),
        ("nameless.pt", "n", "without their names"),
        ("n.safetensors", "s", "weights are yolov5n, the recipe's network is yolov5s: 0 of 171"),
        ("named.pt", "s", "weights are yolov5n, the recipe's network is yolov5s: 0 of 171"),
    ],
)
def test_weights_that_would_stop_the_run_stop_the_check(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, variant: str, message: str
) -> None:
    settings = [f"model.weights={folder / name}", f"model.variant={variant}"]
    assert main(["check", DEMO, *settings]) == 2
    error = capsys.readouterr().err
    assert error.startswith("model.weights: ") and message in error
    assert len(error.splitlines()) == 1


def test_weights_that_only_the_hosts_may_have_do_not_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("node0 slots=2\nnode1 slots=2\n")
    cluster = ["cluster.nodes=2", f"cluster.hostfile={hosts}"]
    assert main(["check", DEMO, "model.weights=/on/the/hosts.pt", *cluster]) == 0
    assert "model.weights: /on/the/hosts.pt: no such file" in capsys.readouterr().out


def test_a_run_does_not_start_from_weights_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", DEMO, "model.weights=gone.pt"]) == 2
    assert "model.weights: gone.pt: no such file" in capsys.readouterr().err


def test_safetensors_are_checked_without_torch(folder: Path) -> None:
    program = (
        "import sys; from yolo.cli import main\n"
        f"assert main(['check', {DEMO!r}, 'model.weights={folder}/n.safetensors']) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)
