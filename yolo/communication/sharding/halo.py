"""Halo exchange: a stripe gets the columns beside it that a kernel reads, from the ranks that hold them.

The forward pass pads a stripe by its neighbours' columns; the backward pass sends the halo's gradient back to its owner,
which adds it (the adjoint). Dryden et al., "Improving Strong-Scaling of CNN Training by Exploiting Finer-Grained
Parallelism", IPDPS 2019, section 3.

Not torch's DTensor: in torch 2.13 a convolution of an input sharded by columns returns half of the width without an error,
and no PyTorch library that was found covers a kernel of 6 with stride 2, a max-pool whose stride is not its kernel, and
BatchNorm.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed import P2POp, irecv, isend

from yolo.communication.sharding.column_group import ColumnGroup, memory_format_of
from yolo.communication.sharding.halo_size import Halo


def with_halo(stripe: Tensor, halo: Halo, columns: ColumnGroup) -> Tensor:
    """A stripe (B, C, H, W) with its halo: (B, C, H, left + W + right); collective, forward and backward.

    ValueError if the stripe is narrower than the halo, because a neighbour's neighbour would hold a part.
    """
    width = stripe.shape[3]
    if width < max(halo.left, halo.right):
        raise ValueError(
            f"a stripe of {width} columns is narrower than the {max(halo.left, halo.right)} that a layer reads beside it; "
            "use larger images, or fewer columns (sharding.columns)"
        )
    padded: Tensor = _WithHalo.apply(stripe, halo, columns)
    return padded


class _WithHalo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stripe: Tensor, halo: Halo, columns: ColumnGroup) -> Tensor:
        ctx.halo, ctx.columns = halo, columns
        batch, channels, height, width = stripe.shape
        shape = batch, channels, height, halo.left + width + halo.right
        padded = torch.empty(
            shape, dtype=stripe.dtype, device=stripe.device, memory_format=memory_format_of(stripe)
        )
        # A neighbour's left halo is the end of this stripe, its right halo the beginning.
        from_left, from_right = _swap(
            stripe[..., : halo.right],
            stripe[..., width - halo.left :],
            halo.left,
            halo.right,
            columns,
        )
        padded[..., halo.left : halo.left + width] = stripe
        padded[..., : halo.left] = halo.fill if from_left is None else from_left
        padded[..., halo.left + width :] = halo.fill if from_right is None else from_right
        return padded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        halo: Halo = ctx.halo
        width = gradient.shape[3] - halo.columns
        from_left, from_right = _swap(
            gradient[..., : halo.left],
            gradient[..., halo.left + width :],
            halo.right,
            halo.left,
            ctx.columns,
        )
        own = gradient[..., halo.left : halo.left + width]
        own = own.contiguous(memory_format=memory_format_of(gradient))
        if from_left is not None:
            own[..., : halo.right] += from_left
        if from_right is not None:
            own[..., width - halo.left :] += from_right
        return own, None, None


def _swap(
    to_left: Tensor, to_right: Tensor, left: int, right: int, columns: ColumnGroup
) -> tuple[Tensor | None, Tensor | None]:
    """Send columns to both neighbours, and receive `left` and `right` of them; None from beyond the image's border."""
    operations: list[P2POp] = []
    received: list[Tensor | None] = []
    for peer, sent, width in (
        (columns.left, to_left, left),
        (columns.right, to_right, right),
    ):
        if peer is None:
            received.append(None)
            continue
        into = sent.new_empty((*sent.shape[:3], width))
        received.append(into)
        if sent.numel():
            operations.append(P2POp(isend, sent.contiguous(), peer, columns.group))
        if width:
            operations.append(P2POp(irecv, into, peer, columns.group))
    if operations:
        # Not imported: the traffic meter replaces torch's function.
        for work in torch.distributed.batch_isend_irecv(operations):
            work.wait()
    return received[0], received[1]
