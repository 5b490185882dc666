import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import ON_A_PROCESSOR, REPOSITORY, launcher_command
from tests.forking.server import run_forked
from yolo.bench.sharding.halo_overlap import in_parts
from yolo.communication.sharding.columns import halo_of


@pytest.mark.parametrize("width", [2, 6, 16])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, 1, 1),
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.Conv2d(3, 4, 6, 2, 2),
        nn.MaxPool2d(5, 1, 2),
    ],
    ids=str,
)
def test_a_layer_in_parts_is_the_layer(layer: nn.Conv2d | nn.MaxPool2d, width: int) -> None:
    halo = halo_of(layer)
    assert halo is not None
    sharded = deepcopy(layer)
    sharded.padding = (halo.left, 0)
    padded = torch.rand(2, 3, 8, width + halo.columns)
    assert torch.allclose(in_parts(sharded, padded, halo), sharded(padded), atol=1e-6)


@pytest.mark.slow(10)
def test_every_layer_with_a_halo_is_timed(tmp_path: Path) -> None:
    out = tmp_path / "seconds.json"
    arguments = ("--pixels", "128", "--rounds", "1", "--out", str(out))
    command = launcher_command(2, "--module", "yolo.bench.sharding.halo_overlap", *arguments)
    ran = run_forked(command, REPOSITORY, ON_A_PROCESSOR, out.with_suffix(".log"))
    assert ran.returncode == 0, ran.stdout[-5000:]
    found = json.loads(out.read_text())
    assert found.pop("layers") == 21
    assert all(0 < seconds < 60 for seconds in found.values())
