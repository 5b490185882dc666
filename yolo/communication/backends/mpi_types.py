"""torch's tensors and reductions as MPI knows them."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.distributed import ReduceOp

from yolo.communication.backends.mpi_library import MPI

BY_SIZE = {1: MPI.BYTE, 2: MPI.UINT16_T, 4: MPI.UINT32_T, 8: MPI.UINT64_T}
"""What is only moved is moved as words of its size: MPI counts elements in 32 bits."""

NUMBERS = {
    torch.float32: MPI.FLOAT,
    torch.float64: MPI.DOUBLE,
    torch.uint8: MPI.UINT8_T,
    torch.int8: MPI.INT8_T,
    torch.int16: MPI.INT16_T,
    torch.int32: MPI.INT32_T,
    torch.int64: MPI.INT64_T,
    torch.bool: MPI.C_BOOL,
}

OPERATIONS = {
    ReduceOp.SUM: MPI.SUM,
    ReduceOp.AVG: MPI.SUM,  # and divided afterwards
    ReduceOp.PRODUCT: MPI.PROD,
    ReduceOp.MAX: MPI.MAX,
    ReduceOp.MIN: MPI.MIN,
    ReduceOp.BAND: MPI.BAND,
    ReduceOp.BOR: MPI.BOR,
    ReduceOp.BXOR: MPI.BXOR,
}

LOGICAL = {
    ReduceOp.SUM: MPI.LOR,
    ReduceOp.PRODUCT: MPI.LAND,
    ReduceOp.MAX: MPI.LOR,
    ReduceOp.MIN: MPI.LAND,
    ReduceOp.BAND: MPI.LAND,
    ReduceOp.BOR: MPI.LOR,
    ReduceOp.BXOR: MPI.LXOR,
}
"""Of booleans."""

HALF = {
    ReduceOp.SUM: torch.add,
    ReduceOp.AVG: torch.add,
    ReduceOp.PRODUCT: torch.mul,
    ReduceOp.MAX: torch.maximum,
    ReduceOp.MIN: torch.minimum,
}
"""Of bfloat16 and float16, which MPI does not know: torch computes them. Widened to float32, twice the bytes would travel."""


def buffer(tensor: torch.Tensor, datatype: MPI.Datatype | None = None, parts: int = 1) -> list[Any]:
    """A contiguous tensor's memory as mpi4py takes it, in words of its size or as a datatype.

    `parts`: of ranks, if the operation takes the size of each one's.
    """
    datatype = datatype or BY_SIZE.get(tensor.element_size(), MPI.BYTE)
    size = tensor.numel() * tensor.element_size()
    memory = MPI.buffer.fromaddress(tensor.data_ptr(), size)
    return [memory, size // datatype.Get_size() // parts, datatype]


def reduction(dtype: torch.dtype, operation: Any) -> tuple[MPI.Datatype, MPI.Op]:
    """MPI's datatype and operation. Raises ValueError for what is not reduced."""
    for kind, known in (LOGICAL if dtype == torch.bool else OPERATIONS).items():
        if operation == kind and dtype in NUMBERS:
            return NUMBERS[dtype], known
        if operation == kind and dtype in (torch.bfloat16, torch.float16) and kind in HALF:
            return MPI.UINT16_T, _half(dtype, kind)
    raise ValueError(f"MPI: no reduction {operation} of {dtype}")


@cache
def _half(dtype: torch.dtype, kind: Any) -> MPI.Op:
    compute: Callable[..., torch.Tensor] = HALF[kind]

    def reduce(source: MPI.buffer, target: MPI.buffer, _: MPI.Datatype) -> None:
        if len(source):
            mine, other = (torch.frombuffer(each, dtype=dtype) for each in (target, source))
            compute(mine, other, out=mine)

    return MPI.Op.Create(reduce, commute=True)
