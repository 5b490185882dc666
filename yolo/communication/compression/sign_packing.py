"""Signs of numbers, eight to a byte, in plain torch: on any device, without a compiled extension."""

import torch

_GATHER = 0x0102040810204080
"""Times eight bytes of 0 or 1, read as one little-endian int64, this brings them into the top byte, the first lowest."""
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def pack_signs(values: torch.Tensor) -> torch.Tensor:
    """The sign bit of each number, inverted: (n,) of any floating type -> (n / 8,) uint8; n is a multiple of 8.

    A set bit says positive. Zeros count by their own sign, so that `torch.copysign` and this agree.
    """
    positive = values.view(_INTEGERS[values.element_size()]).ge(0)
    return positive.view(torch.int64).mul_(_GATHER).bitwise_right_shift_(56).to(torch.uint8)


class SignTable:
    """The way back: a byte -> its eight signs as +1 or -1 of some floating type."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        byte = torch.arange(256, device=device)[:, None]
        bits = byte.bitwise_right_shift(torch.arange(8, device=device)).bitwise_and(1)
        self._signs = (2 * bits - 1).to(dtype)

    def unpack(self, packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """(n / 8,) uint8 -> `out` (n,), +1 or -1 each."""
        torch.index_select(self._signs, 0, packed.int(), out=out.view(-1, 8))
        return out
