"""Compare MPI's collectives with gloo's, in groups of 2, 3 and 4 ranks: which checks failed on which ranks."""

import argparse
import json
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from yolo.communication.backends.mpi import NAME, register_mpi

RANKS = 4
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.uint8, torch.int8, torch.int32, torch.int64)
REDUCTIONS = ("SUM", "PRODUCT", "MAX", "MIN")
Group = Any
Check = Callable[[Group, int, int], Any]


def values(rank: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Small whole numbers, which all types hold and which add up without rounding."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(0, 3, shape, generator=generator).to(dtype)


def all_reduce(name: str, dtype: torch.dtype) -> Check:
    def check(group: Group, rank: int, size: int) -> Any:
        tensor = values(rank, 5, 7, dtype=dtype)
        dist.all_reduce(tensor, getattr(dist.ReduceOp, name), group=group)
        return tensor

    return check


def reduce_scatter(dtype: torch.dtype) -> Check:
    def check(group: Group, rank: int, size: int) -> Any:
        output = torch.empty(6, dtype=dtype)
        dist.reduce_scatter_single(output, values(rank, 6 * size, dtype=dtype), group=group)
        return output

    return check


def reduce_scatter_list(group: Group, rank: int, size: int) -> Any:
    output = torch.empty(3, 2)
    dist.reduce_scatter(output, [values(rank + 9 * i, 3, 2) for i in range(size)], group=group)
    return output


def reduce(group: Group, rank: int, size: int) -> Any:
    tensor = values(rank, 9)
    dist.reduce(tensor, group=group, group_dst=size - 1)
    return tensor if rank == size - 1 else None


def broadcast(group: Group, rank: int, size: int) -> Any:
    tensor = values(rank, 3, 4).T  # not contiguous
    dist.broadcast(tensor, group=group, group_src=1)
    return tensor


def all_gather(dtype: torch.dtype) -> Check:
    def check(group: Group, rank: int, size: int) -> Any:
        outputs = [torch.empty(2, 3, dtype=dtype) for _ in range(size)]
        dist.all_gather(outputs, values(rank, 2, 3, dtype=dtype), group=group)
        joined = torch.empty(size * 2, 3, dtype=dtype)
        dist.all_gather_single(joined, values(rank, 2, 3, dtype=dtype), group=group)
        return [*outputs, joined]

    return check


def all_gather_in_place(group: Group, rank: int, size: int) -> Any:
    """As ZeRO does: a rank's part lies where it is gathered."""
    joined = torch.zeros(size * 5)
    part = joined.narrow(0, rank * 5, 5)
    part.copy_(values(rank, 5))
    dist.all_gather_single(joined, part, group=group)
    return joined


def all_to_all(group: Group, rank: int, size: int) -> Any:
    """Rank r sends rank i so many rows: r + i."""
    sent, received = [rank + i for i in range(size)], [i + rank for i in range(size)]
    output = torch.empty(sum(received), 3)
    dist.all_to_all_single(output, values(rank, sum(sent), 3), received, sent, group=group)
    equal = torch.empty(2 * size, dtype=torch.uint8)
    dist.all_to_all_single(equal, values(rank, 2 * size, dtype=torch.uint8), group=group)
    return [output, equal]


def gather_and_scatter(group: Group, rank: int, size: int) -> Any:
    outputs = [torch.empty(4) for _ in range(size)] if rank == 0 else None
    dist.gather(values(rank, 4), outputs, group=group, group_dst=0)
    mine = torch.empty(4)
    dist.scatter(mine, outputs, group=group, group_src=0)
    return [*(outputs or []), mine]


def ring(group: Group, rank: int, size: int) -> Any:
    """A halo exchange: to both neighbours at once, several tensors each."""
    received = [torch.empty(1000) for _ in range(4)]
    operations = []
    for i, tensor in enumerate(received):
        step = 1 if i % 2 else -1
        sent = values(rank + 10 * i, 1000)
        operations.append(
            dist.P2POp(dist.isend, sent, group=group, group_peer=(rank + step) % size, tag=i)
        )
        operations.append(
            dist.P2POp(dist.irecv, tensor, group=group, group_peer=(rank - step) % size, tag=i)
        )
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return received


class Swap(torch.autograd.Function):
    """Exchange with the neighbour, in autograd's thread too."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, group: Group, rank: int, size: int) -> Any:
        context.group, context.rank, context.size = group, rank, size
        return Swap.shift(tensor, group, rank, size, 1)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        shifted = Swap.shift(gradient, context.group, context.rank, context.size, -1)
        return shifted, None, None, None

    @staticmethod
    def shift(tensor: torch.Tensor, group: Group, rank: int, size: int, step: int) -> torch.Tensor:
        received = torch.empty_like(tensor)
        operations = [
            dist.P2POp(
                dist.isend, tensor.contiguous(), group=group, group_peer=(rank + step) % size
            ),
            dist.P2POp(dist.irecv, received, group=group, group_peer=(rank - step) % size),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        return received


def backward(group: Group, rank: int, size: int) -> Any:
    tensor = values(rank, 8).requires_grad_()
    other = Swap.apply(tensor, group, rank, size)
    (other * other * (rank + 1)).sum().backward()
    return [other.detach(), tensor.grad]


def blocking(group: Group, rank: int, size: int) -> Any:
    """send and recv; the last from whoever sends."""
    tensor = values(rank, 300_000)
    if rank == 0:
        dist.send(tensor, group=group, group_dst=1)
    elif rank == 1:
        dist.recv(tensor, group=group)
    return tensor


def asynchronous(group: Group, rank: int, size: int) -> Any:
    """Many at once, waited for in another order; futures and what follows them."""
    tensors = [values(rank + i, 10 ** (i % 6)) for i in range(24)]
    works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor in tensors]
    followed = [work.get_future().then(lambda done: done.value()[0] * 2) for work in works[:3]]
    for work in reversed(works):
        work.wait()
        assert work.is_completed()
    return [*tensors, *(future.wait() for future in followed)]


def objects(group: Group, rank: int, size: int) -> Any:
    gathered: list[Any] = [None] * size
    dist.all_gather_object(gathered, {"rank": rank, "text": "x" * 10**rank}, group=group)
    sent = [("from the first", rank)]
    dist.broadcast_object_list(sent, group=group, group_src=0)
    dist.barrier(group=group)
    return gathered, sent


def empty(group: Group, rank: int, size: int) -> Any:
    tensor = torch.empty(0)
    dist.all_reduce(tensor, group=group)
    dist.broadcast(tensor, group=group, group_src=0)
    return tensor


def coalesced(group: Group, rank: int, size: int) -> Any:
    """gloo has only some of these: compared with one after another."""
    together, alone = ([values(rank + i, 4 + i) for i in range(3)] for _ in range(2))
    is_mpi = dist.get_backend(group) == NAME
    gathered = [torch.empty(size * (4 + i)) for i in range(3)]
    scattered = [torch.empty(4 + i) for i in range(3)]
    sources = [values(rank + i, size * (4 + i)) for i in range(3)]
    if is_mpi:
        with dist._coalescing_manager(group):
            for tensor in together:
                dist.all_reduce(tensor, group=group)
        with dist._coalescing_manager(group):
            for output, tensor in zip(gathered, alone, strict=True):
                dist.all_gather_single(output, tensor, group=group)
        with dist._coalescing_manager(group):
            for output, tensor in zip(scattered, sources, strict=True):
                dist.reduce_scatter_single(output, tensor, group=group)
    else:
        for tensor in together:
            dist.all_reduce(tensor, group=group)
        for output, tensor in zip(gathered, alone, strict=True):
            dist.all_gather_single(output, tensor, group=group)
        for output, tensor in zip(scattered, sources, strict=True):
            dist.reduce_scatter_single(output, tensor, group=group)
    return [*together, *gathered, *scattered]


CHECKS: dict[str, Check] = {
    **{
        f"all-reduce {name} {dtype}": all_reduce(name, dtype)
        for name, dtype in product(REDUCTIONS, FLOATS + INTEGERS)
    },
    **{f"all-reduce {name}": all_reduce(name, torch.int32) for name in ("BAND", "BOR", "BXOR")},
    **{f"reduce-scatter {dtype}": reduce_scatter(dtype) for dtype in FLOATS},
    **{f"all-gather {dtype}": all_gather(dtype) for dtype in (*FLOATS, *INTEGERS, torch.bool)},
    **{
        check.__name__: check
        for check in (
            reduce_scatter_list,
            reduce,
            broadcast,
            all_gather_in_place,
            all_to_all,
            gather_and_scatter,
            ring,
            backward,
            blocking,
            asynchronous,
            objects,
            empty,
            coalesced,
        )
    },
}


def is_equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(is_equal, first, second))
    return bool(first == second)


def alone() -> dict[str, bool]:
    """What gloo does not have."""
    rank, size = dist.get_rank(), dist.get_world_size()
    mean = torch.full((3,), float(rank))
    dist.all_reduce(mean, dist.ReduceOp.AVG)
    some = torch.tensor([rank == 1, False, True])
    dist.all_reduce(some)
    parts = [torch.full((rank + i,), float(rank)) for i in range(size)]
    received = [torch.empty(i + rank) for i in range(size)]
    dist.all_to_all(received, parts)
    uneven = [torch.empty(i + 1) for i in range(size)]
    dist.all_gather(uneven, torch.full((rank + 1,), float(rank)))
    node, groups = dist.new_subgroups(2)
    total = torch.tensor([float(rank)])
    dist.all_reduce(total, group=node)
    return {
        "AVG": torch.equal(mean, torch.full((3,), (size - 1) / 2)),
        "booleans": some.tolist() == [True, False, True],
        "all_to_all": all((t == i).all() for i, t in enumerate(received)),
        "uneven all_gather": all((t == i).all() for i, t in enumerate(uneven)),
        "new_subgroups": len(groups) == size // 2 and total.item() == (1.0 if rank < 2 else 5.0),
        "one thread": sum(thread.name == "mpi" for thread in threading.enumerate()) == 1,
    }


def too_late() -> dict[str, bool]:
    """What others do not take part in ends with an error, within its time. To be called last: MPI waits on."""
    group = dist.new_group([0, 1], timeout=timedelta(seconds=0.5), backend=NAME)
    if dist.get_rank() != 0:
        return {}
    found = {}
    for name, call in {
        "all-reduce": lambda: dist.all_reduce(torch.ones(2), group=group),
        "receive from rank 1": lambda: dist.recv(torch.ones(2), 1, group=group),
    }.items():
        try:
            call()
        except dist.DistError as error:
            found[f"late {name}"] = str(error) == f"Timed out waiting 500ms for MPI's {name}"
    work = dist.all_reduce(torch.ones(2), group=group, async_op=True)
    try:
        work.get_future().wait()
    except RuntimeError as error:
        found["late future"] = "Timed out waiting" in str(error)
    return found if len(found) == 3 else {"late": False}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--local_rank")
    options = parser.parse_args()
    torch.set_num_threads(1)
    register_mpi()
    dist.init_process_group(NAME, timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    found = alone()
    for size in range(2, RANKS + 1):
        members = list(range(RANKS - size, RANKS))
        ours, theirs = (dist.new_group(members, backend=name) for name in (NAME, "gloo"))
        if rank not in members:
            continue
        for name, check in CHECKS.items():
            results = [check(group, members.index(rank), size) for group in (ours, theirs)]
            found[f"{name} of {size}"] = is_equal(*results)
    dist.barrier()
    found |= too_late()
    gathered: list[dict[str, bool]] = [{} for _ in range(RANKS)]
    dist.all_gather_object(gathered, found)
    if rank == 0:
        names = sorted({name for each in gathered for name in each})
        failed = {
            name: [r for r, each in enumerate(gathered) if not each.get(name, True)]
            for name in names
        }
        options.out.write_text(json.dumps(failed))
    dist.barrier()
    os._exit(0)  # MPI cannot be finalized any more


main()
