"""Compare the weights of all ranks, so that a silent divergence is found and named."""

import deepspeed.comm as dist
import torch
from torch import nn

from yolo.errors import YoloError

_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64
"""2^64 divided by the golden ratio, odd, as a signed number: neighbouring positions get factors far apart."""


class RanksDiverged(YoloError):
    """Ranks that should hold the same weights do not."""


def fingerprint(tensor: torch.Tensor) -> torch.Tensor:
    """64 bits (scalar int64) that depend on each bit of a tensor and on its position; computed on the tensor's device."""
    flat = tensor.detach().contiguous().reshape(-1)
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    bits = flat.view(integers[flat.element_size()]).long()
    positions = torch.arange(1, bits.numel() + 1, device=bits.device)
    mixed = (bits + positions) * (positions * _MULTIPLIER | 1)
    mixed = mixed ^ (mixed >> 29)  # so that no carry is lost at the top
    return (mixed * _MULTIPLIER).sum()


def check_replicas_equal(model: nn.Module, when: str) -> None:
    """Compare a fingerprint of every parameter between the ranks; one all-gather of 8 bytes per parameter.

    Not for ZeRO stage 3, where ranks hold shards. Raises RanksDiverged on all ranks. The error names the parameters, and
    the ranks that differ if a majority agrees.
    """
    ranks = dist.get_world_size()
    if ranks == 1:
        return
    names, parameters = zip(*model.named_parameters(), strict=True)
    own = torch.stack([fingerprint(parameter) for parameter in parameters])
    gathered = own.new_empty(ranks * len(names))
    dist.all_gather_into_tensor(gathered, own)
    fingerprints = gathered.view(ranks, -1)
    most_common = fingerprints.mode(dim=0).values
    differs = fingerprints.ne(most_common)  # (ranks, parameters)
    if not bool(differs.any()):
        return
    has_majority = bool((2 * differs.logical_not().sum(0) > ranks).all())
    different = [names[position] for position in differs.any(0).nonzero().flatten().tolist()]
    who = differs.any(1).nonzero().flatten().tolist()
    shown = ", ".join(different[:3]) + (f" and {len(different) - 3} more" if different[3:] else "")
    where = f"differ on rank {', '.join(map(str, who))}" if has_majority else "differ"
    raise RanksDiverged(
        f"{when}: ranks do not hold the same weights: {shown} of {len(names)} parameters {where}. A faulty machine, or code "
        "that changes weights on some ranks only; resume from the last checkpoint, which was checked"
    )
