"""Sharded by columns, a network computes what the plain one does, forward and backward, over several steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from yolo.communication.sharding.column_group import ColumnGroup
from yolo.communication.sharding.columns import shard_columns
from yolo.communication.sharding.halo import with_halo
from yolo.communication.sharding.halo_size import Halo
from yolo.model import YOLOv5

CASES = {
    2: ("n 2 1 128 256 fp32 3", "n 2 3 64 256 fp64 2", "s 2 1 64 128 fp64 2"),
    4: ("n 4 1 64 256 fp32 3", "n 2 3 64 128 fp64 3", "s 4 1 64 512 fp64 2", "s 2 1 64 256 fp32 2"),
}
"""By number of ranks; see tests/workers/columns.py."""
KINDS = ("loss", "outputs", "gradients", "weights", "buffers")


@pytest.mark.slow(25)
@pytest.mark.parametrize("ranks", CASES)
def test_outputs_loss_gradients_weights_and_statistics_are_the_plain_networks(
    launch_worker: Callable[..., Any], ranks: int
) -> None:
    found = launch_worker("columns", *CASES[ranks], ranks=ranks)
    for case in CASES[ranks]:
        sharded, plain = found[case]["sharded"], found[case]["plain"]
        for kind in KINDS:
            if "fp64" in case:
                assert sharded[kind] < 1e-11, (case, kind)
            else:  # as far from the exact value as the plain network in fp32
                assert 0 < sharded[kind] < max(2 * plain[kind], 1e-6), (case, kind)
                if kind != "gradients":
                    assert sharded[kind] < 1e-5, (case, kind)


@pytest.mark.parametrize(
    ("sizes", "halo"),
    [((3, 1, 1), (1, 1)), ((3, 2, 1), (1, 0)), ((6, 2, 2), (2, 2)), ((5, 1, 2), (2, 2)), ((1, 1, 0), (0, 0)), ((1, 2, 0), (0, 0))],
)  # fmt: skip
def test_the_halo_is_what_a_kernel_reads_beside_a_stripe(
    sizes: tuple[int, int, int], halo: tuple[int, int]
) -> None:
    found = Halo.of(*sizes)
    assert (found.left, found.right) == halo
    kernel, stride, padding = sizes
    features = torch.randn(1, 1, 4, 16)
    plain = nn.Conv2d(1, 1, kernel, stride, padding, bias=False)
    padded = torch.nn.functional.pad(features, halo)
    valid = torch.nn.functional.conv2d(padded, plain.weight, None, stride, (padding, 0))
    assert torch.equal(valid, plain(features))


@pytest.mark.parametrize("sizes", [(4, 1, 1), (2, 2, 1), (3, 1, 2), (3, 1, 0)])
def test_a_layer_that_does_not_divide_the_width_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be sharded by columns"):
        Halo.of(*sizes)


def test_a_layer_that_cannot_be_sharded_is_named() -> None:
    columns = ColumnGroup(0, 2)
    for layer in (
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, dilation=2, padding=2),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    ):
        with pytest.raises(ValueError, match=r"^1: "):
            shard_columns(nn.Sequential(nn.SiLU(), layer), columns)


def test_whole_images_are_todays_path() -> None:
    model = YOLOv5("n", 3)
    shard_columns(model, ColumnGroup())
    assert not any(module._forward_pre_hooks for module in model.modules())
    images = torch.rand(1, 3, 64, 64)
    assert ColumnGroup().stripe(images) is images


def test_a_stripe_narrower_than_the_halo_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a stripe of 1 columns is narrower than the 2"):
        with_halo(torch.rand(1, 1, 4, 1), Halo(2, 2), ColumnGroup(0, 2))
