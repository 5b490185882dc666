"""What a rank sends in a collective: the formulae of the algorithms. Needs no torch."""

import math

KINDS = ("all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all")

GLOO_MESSAGE_BYTES = 144
"""gloo's own, of each message: a header, and the two notes by which sender and receiver agree on it (measured)."""
GLOO_SEGMENT_BYTES = 2**20
"""A ring's messages hold no more; of a small payload there are two to each rank."""


def sent_bytes(kind: str, payload_bytes: float, ranks: int, is_gloo: bool) -> float:
    """That a rank hands to TCP (or to NCCL's transport) in one collective, in the mean over the ranks.

    ValueError for a kind without a formula.
    """
    messages = _gloo_messages(kind, payload_bytes, ranks) if is_gloo else 0.0
    return payload_bytes * sent_share(kind, ranks, is_gloo) + messages * GLOO_MESSAGE_BYTES


def _gloo_messages(kind: str, payload_bytes: float, ranks: int) -> float:
    """That a rank sends, in the mean over the ranks: counted on 2, 3 and 4 of them."""
    others = ranks - 1
    segments = max(2, math.ceil(math.ceil(payload_bytes / GLOO_SEGMENT_BYTES) / ranks))
    match kind:
        case "all_reduce" | "reduce_scatter":
            return 2 * others * segments
        case "reduce":
            return others * segments + others / ranks
        case "all_gather":
            return 2 * others
        case "all_to_all":
            return others
        case _:
            return others / ranks


def sent_share(kind: str, ranks: int, is_gloo: bool) -> float:
    """Bytes that a rank sends (and as many that it receives, in the mean over ranks) for each byte of payload.

    The payload is what is reduced or scattered, and what has been gathered. ValueError for a kind without a formula.
    """
    others = (ranks - 1) / ranks
    match kind:
        case "all_reduce":
            return 2 * others
        case "reduce":
            # gloo reduces and scatters, then gathers what is not the root's already (measured; of more than 4 MiB it
            # sends some parts again, up to half as much in all).
            return others * (1 + 1 / ranks if is_gloo else 1)
        case "reduce_scatter":
            # gloo's is an all-reduce and a copy (measured); NCCL sends half of that.
            return (2 if is_gloo else 1) * others
        case "broadcast" | "all_gather" | "gather" | "scatter" | "all_to_all":
            return others
        case _:
            raise ValueError(f"{kind}: no such kind of collective")
