"""Apply column sharding to a plain network, from outside."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from yolo.communication.sharding.column_group import ColumnGroup
from yolo.communication.sharding.halo import with_halo
from yolo.communication.sharding.halo_size import Halo


def shard_columns(model: nn.Module, columns: ColumnGroup) -> None:
    """Let a network of convolutions and max-pools compute on stripes of the images' columns.

    Each of them gets the columns that it reads beside its stripe from the neighbours, instead of padding. Outputs are the
    stripes of what the plain network computes, and parameter gradients are this rank's share: their sum over the stripes
    is the plain network's. BatchNorm's statistics must be shared as well (`SharedBatchNorm2d.convert`).

    ValueError for a layer that cannot be sharded exactly.
    """
    if columns.count == 1:
        return
    for name, module in model.named_modules():
        try:
            halo = halo_of(module)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if halo is not None:
            module.padding = (_down(module.padding), 0)
            module.register_forward_pre_hook(partial(_add_halo, halo, columns))


def halo_of(module: nn.Module) -> Halo | None:
    """The columns that a layer of a plain network reads beside a stripe; None if it reads none.

    ValueError for a layer that cannot be sharded exactly.
    """
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d):
        return None
    if isinstance(module.padding, str) or across(module.dilation) != 1:
        raise ValueError("a dilated kernel, or padding by name, cannot be sharded by columns")
    if getattr(module, "padding_mode", "zeros") != "zeros" or getattr(module, "ceil_mode", False):
        raise ValueError("expected padding by zeros, and no ceil_mode")
    fill = 0.0 if isinstance(module, nn.Conv2d) else float("-inf")
    sides = across(module.kernel_size), across(module.stride), across(module.padding)
    halo = Halo.of(*sides, fill)
    return halo if halo.columns else None


def _add_halo(
    halo: Halo, columns: ColumnGroup, module: nn.Module, inputs: tuple[Any, ...]
) -> tuple[Tensor, ...]:
    (stripe,) = inputs
    return (with_halo(stripe, halo, columns),)


def across(size: int | tuple[int, ...]) -> int:
    """Of a layer's size: one number, or one per dimension (height, width)."""
    return size if isinstance(size, int) else size[1]


def _down(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]
