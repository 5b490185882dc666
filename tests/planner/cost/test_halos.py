"""The halos of a sharded network: as many bytes on the wire as the plan says."""

import json
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, needs_a_cluster
from yolo.architecture import windows
from yolo.communication.metering.wire_bytes import sent_bytes
from yolo.emulation.cluster import EmulatedCluster
from yolo.planner.cost.halos import backward_halos, forward_halos
from yolo.recipe import prepare

IMAGES, PIXELS = 4, 1024


@pytest.mark.slow
@needs_a_cluster
def test_halos_are_as_many_bytes_on_the_wire_as_planned(tmp_path: Path) -> None:
    """By the interfaces of two hosts, headers and acknowledgements included."""
    out = tmp_path / "bytes.json"
    worker = str(REPOSITORY / "tests/workers/halo_bytes.py")
    with EmulatedCluster(2, 300) as cluster:
        sizes = ("--images", str(IMAGES), "--pixels", str(PIXELS))
        cluster.wait(cluster.launch([worker, "--out", str(out), *sizes], tmp_path), 120)
    overrides = (
        *("sharding.columns=2", f"train.micro_batch={IMAGES}", f"train.global_batch={IMAGES}"),
        *(f"model.image_size={PIXELS}", "model.variant=n"),
    )
    recipe = prepare("recipes/bccd.yaml", overrides, 2, 1).resolved.recipe
    events = (*forward_halos(recipe), *backward_halos(recipe))
    handed = sum(sent_bytes(e.kind, e.payload_bytes, 2, True, e.messages) for e in events)
    found = json.loads(out.read_text())
    assert found["sent"] == pytest.approx(handed * found["framing"], rel=0.01)


def test_each_layer_that_reads_beside_its_cell_has_a_window() -> None:
    from torch.nn import Conv2d, MaxPool2d

    from yolo.model import YOLOv5

    for variant in ("n", "m6"):
        model = YOLOv5(variant)
        layers = [each for each in model.modules() if isinstance(each, Conv2d)]
        kernels = [(each.in_channels, *each.kernel_size[1:], *each.stride[1:]) for each in layers]
        expected = [each for each in kernels if each[1] > 1]
        found = [(each.channels, each.kernel, each.stride) for each in windows(variant)]
        pools = [each for each in model.modules() if isinstance(each, MaxPool2d)]
        assert [each for each in found if each[1] != pools[0].kernel_size] == expected
        assert len(found) == len(expected) + 3  # SPPF calls its max-pool three times
