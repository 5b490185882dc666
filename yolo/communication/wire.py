"""How many of a collective's payload bytes a rank sends: the formulae of the algorithms. Needs no torch."""

KINDS = ("all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all")


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
