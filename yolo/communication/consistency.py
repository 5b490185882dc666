"""Whether all ranks hold the same weights: a silent divergence is found, and named."""

import deepspeed.comm as dist
import torch
from torch import nn

from yolo.errors import YoloError

_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64
"""2^64 divided by the golden ratio, odd, as a signed number: neighbouring positions get factors far apart."""


class RanksDiverged(YoloError):
    """Ranks that should hold the same weights do not."""


def fingerprint(tensor: torch.Tensor) -> torch.Tensor:
    """64 bits (scalar int64) that depend on each bit of a tensor and on its place; computed where the tensor lies."""
    whole = tensor.detach().contiguous().reshape(-1)
    words = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[whole.element_size()]
    bits = whole.view(words).long()
    places = torch.arange(1, bits.numel() + 1, device=bits.device)
    mixed = (bits + places) * (places * _MULTIPLIER | 1)
    mixed = mixed ^ (mixed >> 29)  # so that no carry is lost at the top
    return (mixed * _MULTIPLIER).sum()


def check_replicas_equal(model: nn.Module, when: str) -> None:
    """Compare a fingerprint of every parameter between the ranks; one all-gather of 8 bytes a parameter.

    Under ZeRO stage 3 ranks hold shards, and there is nothing to compare. Raises RanksDiverged on all ranks, naming the
    parameters, and the ranks that stand apart from most where there is a most.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters()]
    mine = torch.stack([fingerprint(parameter) for _, parameter in named])
    ranks = dist.get_world_size()
    if ranks == 1:
        return
    gathered = mine.new_empty(ranks * len(named))
    dist.all_gather_into_tensor(gathered, mine)
    every = gathered.view(ranks, -1)
    usual = every.mode(dim=0).values
    apart = every.ne(usual)  # (ranks, parameters)
    if not bool(apart.any()):
        return
    has_majority = bool((2 * every.eq(usual).sum(0) > ranks).all())
    names = [
        name for (name, _), is_apart in zip(named, apart.any(0).tolist(), strict=True) if is_apart
    ]
    who = [rank for rank, is_apart in enumerate(apart.any(1).tolist()) if is_apart]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    where = f"differ on rank {', '.join(map(str, who))}" if has_majority else "differ"
    raise RanksDiverged(
        f"{when}: ranks do not hold the same weights: {shown} of {len(named)} parameters {where}. A faulty machine, or code "
        "that changes weights on some ranks only; go on from the last checkpoint, which was checked"
    )
