"""MPI as a backend of `torch.distributed`, over mpi4py: pip's torch is built without its own.

torch keeps the name "mpi" for its own, so this one is registered as `NAME`. All operations are MPI's nonblocking ones
(`mpi_progress`), started in the order of the calls. Tensors on a GPU go through host memory.
"""

# mypy: disable-error-code="override, assignment"
# torch declares each method several times, and calls it in one way.

import atexit
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from yolo.communication.backends.host_memory import (
    Finish,
    Tensors,
    copied,
    joined,
    joined_room,
    keeping,
    on_host,
    room_on_host,
    split,
)
from yolo.communication.backends.mpi_library import MPI
from yolo.communication.backends.mpi_progress import MPIProgress, MPIWork
from yolo.communication.backends.mpi_types import buffer, reduction

NAME = "mpi4py"
"""Of the backend, for `init_process_group`."""

_progress: MPIProgress | None = None
_is_shut_down = False


class MPIProcessGroup(dist.ProcessGroup):
    """A communicator of MPI's as torch's process group. Methods are those that torch calls.

    Arguments are torch's: lists of one tensor, and options. Ranks are those of the group.
    """

    def __init__(self, communicator: MPI.Intracomm, timeout: timedelta) -> None:
        super().__init__(communicator.Get_rank(), communicator.Get_size())  # type: ignore[call-arg]
        self._communicator = communicator
        self._timeout = timeout
        self._is_world = False
        self._started = 0
        """Operations so far."""

    def getBackendName(self) -> str:
        """Name of the backend."""
        return NAME

    def allreduce(self, tensors: Tensors, opts: Any = None, *_: Any, **__: Any) -> MPIWork:
        """Reduce a tensor in place."""
        return self._all_reduce(tensors, opts)

    def allreduce_coalesced(self, tensors: Tensors, opts: Any = None) -> MPIWork:
        """Reduce tensors in place."""
        return self._all_reduce(tensors, opts)

    def _all_reduce(self, tensors: Tensors, opts: Any) -> MPIWork:
        hosts = [on_host(tensor) for tensor in tensors]
        kinds = [reduction(tensor.dtype, opts.reduceOp) for tensor in tensors]

        def start() -> list[MPI.Request]:
            return [
                self._communicator.Iallreduce(MPI.IN_PLACE, buffer(host, datatype), operation)
                for host, (datatype, operation) in zip(hosts, kinds, strict=True)
            ]

        return self._run("all-reduce", start, self._reduced(tensors, hosts, opts), opts)

    def broadcast(self, tensors: Tensors, opts: Any) -> MPIWork:
        """Send the root's tensor to all."""
        (tensor,) = tensors
        host = on_host(tensor)

        def start() -> list[MPI.Request]:
            return [self._communicator.Ibcast(buffer(host), opts.rootRank)]

        return self._run("broadcast", start, copied(tensors, [host]), opts)

    def reduce(self, tensors: Tensors, opts: Any) -> MPIWork:
        """Reduce a tensor to the root's."""
        (tensor,) = tensors
        datatype, operation = reduction(tensor.dtype, opts.reduceOp)
        root, host = opts.rootRank, on_host(tensor)
        is_root = self.rank() == root
        source = MPI.IN_PLACE if is_root else buffer(host, datatype)
        target = buffer(host, datatype) if is_root else None

        def start() -> list[MPI.Request]:
            return [self._communicator.Ireduce(source, target, operation, root)]

        finish = self._reduced(tensors, [host], opts) if is_root else lambda: [host, tensor][1:]
        return self._run("reduce", start, finish, opts)

    def allgather(self, output_tensors: Any, input_tensors: Tensors, opts: Any = None) -> MPIWork:
        """Gather a tensor of each rank in a list; their sizes may differ."""
        (outputs,), (source,) = output_tensors, input_tensors
        return self._all_gather([(outputs, source)], opts)

    def allgather_coalesced(self, outputs: Any, inputs: Tensors, opts: Any = None) -> MPIWork:
        """Gather several tensors: `outputs` has a list of tensors for each rank."""
        pairs = [
            ([ranks[i] for ranks in outputs], source)  # torch lists them by rank first
            for i, source in enumerate(inputs)
        ]
        return self._all_gather(pairs, opts)

    def all_gather_single(
        self, output: torch.Tensor, source: torch.Tensor, opts: Any = None
    ) -> MPIWork:
        """Gather a tensor of each rank in one."""
        return self._all_gather([([output], source)], opts)

    def all_gather_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None
    ) -> MPIWork:
        """Gather several tensors, each in one."""
        pairs = [([output], source) for output, source in zip(outputs, inputs, strict=True)]
        return self._all_gather(pairs, opts)

    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def _all_gather(self, pairs: Sequence[tuple[Tensors, torch.Tensor]], opts: Any) -> MPIWork:
        """Each pair: tensors that together get all ranks' values, or one for all; and this rank's."""
        # MPI forbids that a rank's own part lies in the output, where ZeRO keeps it.
        sources = [on_host(source, apart_from=outputs) for outputs, source in pairs]
        targets = [joined_room(outputs) for outputs, _ in pairs]

        def start() -> list[MPI.Request]:
            requests = []
            for (outputs, _), source, target in zip(pairs, sources, targets, strict=True):
                if len(outputs) == 1:
                    request = self._communicator.Iallgather(
                        buffer(source), buffer(target, parts=self.size())
                    )
                else:
                    memory, _count, word = buffer(target)
                    sizes = [output.numel() for output in outputs]
                    request = self._communicator.Iallgatherv(
                        buffer(source), [memory, (sizes, None), word]
                    )
                requests.append(request)
            return requests

        def finish() -> list[torch.Tensor]:
            del sources[:]
            return [
                each
                for (outputs, _), target in zip(pairs, targets, strict=True)
                for each in split(outputs, target)
            ]

        return self._run("all-gather", start, finish, opts)

    def reduce_scatter(self, output_tensors: Tensors, input_tensors: Any, opts: Any) -> MPIWork:
        """Reduce a list of tensors, one for each rank; their sizes may differ."""
        return self._reduce_scatter(output_tensors, input_tensors, opts)

    def reduce_scatter_single(
        self, output: torch.Tensor, source: torch.Tensor, opts: Any
    ) -> MPIWork:
        """Reduce a tensor, of which each rank gets a part."""
        return self._reduce_scatter([output], [[source]], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any
    ) -> MPIWork:
        """Reduce several tensors, of which each rank gets parts."""
        return self._reduce_scatter(outputs, [[source] for source in inputs], opts)

    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    def _reduce_scatter(self, outputs: Tensors, inputs: Sequence[Tensors], opts: Any) -> MPIWork:
        hosts = [room_on_host(output) for output in outputs]
        sources = [
            joined(each, apart_from=[output]) for each, output in zip(inputs, outputs, strict=True)
        ]
        kinds = [reduction(output.dtype, opts.reduceOp) for output in outputs]

        def start() -> list[MPI.Request]:
            requests = []
            for source, host, each, (datatype, operation) in zip(
                sources, hosts, inputs, kinds, strict=True
            ):
                sizes = [t.numel() for t in each] if len(each) > 1 else [host.numel()] * self.size()
                request = self._communicator.Ireduce_scatter(
                    buffer(source, datatype), buffer(host, datatype), sizes, operation
                )
                requests.append(request)
            return requests

        reduced = self._reduced(outputs, hosts, opts)
        return self._run("reduce-scatter", start, keeping(sources, reduced), opts)

    def alltoall(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> MPIWork:
        """Send each rank a tensor, and receive one from each."""
        source, target = joined(inputs), joined_room(outputs)
        sent, received = ([tensor.numel() for tensor in each] for each in (inputs, outputs))
        return self._all_to_all(
            source, target, sent, received, lambda: split(outputs, target), opts
        )

    def all_to_all_single(
        self,
        output: torch.Tensor,
        source: torch.Tensor,
        output_split_sizes: Sequence[int],
        input_split_sizes: Sequence[int],
        opts: Any = None,
    ) -> MPIWork:
        """Send each rank a part of a tensor's rows, and receive rows from each; without sizes, parts are equal."""
        host, target = on_host(source, apart_from=[output]), room_on_host(output)
        sent = self._sizes(source, input_split_sizes)
        received = self._sizes(output, output_split_sizes)
        return self._all_to_all(host, target, sent, received, copied([output], [target]), opts)

    alltoall_base = all_to_all_single

    def _sizes(self, tensor: torch.Tensor, rows: Sequence[int]) -> list[int]:
        """Elements for each rank, of so many rows each."""
        if not rows:
            if tensor.numel() % self.size():
                raise ValueError(
                    f"MPI: {tuple(tensor.shape)} does not split into {self.size()} equal parts"
                )
            return [tensor.numel() // self.size()] * self.size()
        if sum(rows) != tensor.shape[0]:
            raise ValueError(f"MPI: split sizes {list(rows)} of a tensor of {tensor.shape[0]} rows")
        row = tensor[0].numel() if len(tensor) else 0
        return [row * count for count in rows]

    def _all_to_all(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        sent: list[int],
        received: list[int],
        finish: Finish,
        opts: Any,
    ) -> MPIWork:
        def start() -> list[MPI.Request]:
            (outgoing, _, word), (incoming, _, _) = buffer(source), buffer(target)
            sending, receiving = [outgoing, (sent, None), word], [incoming, (received, None), word]
            return [self._communicator.Ialltoallv(sending, receiving)]

        return self._run("all-to-all", start, keeping([source, target], finish), opts)

    def gather(self, output_tensors: Any, input_tensors: Tensors, opts: Any) -> MPIWork:
        """Gather a tensor of each rank on the root."""
        (source,), root = input_tensors, opts.rootRank
        outputs = output_tensors[0] if self.rank() == root else []
        host = on_host(source)
        target = joined_room(outputs) if outputs else None

        def start() -> list[MPI.Request]:
            receiving = None if target is None else buffer(target, parts=self.size())
            return [self._communicator.Igather(buffer(host), receiving, root)]

        def finish() -> list[torch.Tensor]:
            return [] if target is None else split(outputs, target)

        return self._run("gather", start, keeping([host], finish), opts)

    def scatter(self, output_tensors: Tensors, input_tensors: Any, opts: Any) -> MPIWork:
        """Send each rank one of the root's tensors."""
        (output,), root = output_tensors, opts.rootRank
        source = joined(input_tensors[0]) if self.rank() == root else None
        host = room_on_host(output)

        def start() -> list[MPI.Request]:
            sending = None if source is None else buffer(source, parts=self.size())
            return [self._communicator.Iscatter(sending, buffer(host), root)]

        return self._run("scatter", start, keeping([source], copied([output], [host])), opts)

    def send(self, tensors: Tensors, rank: int, tag: int = 0) -> MPIWork:
        """Send a tensor to a rank of the group."""
        host = on_host(tensors[0])

        def start() -> list[MPI.Request]:
            return [self._communicator.Isend(buffer(host), rank, tag)]

        return self._run(f"send to rank {rank}", start, keeping([host], lambda: list(tensors)))

    def recv(self, tensors: Tensors, rank: int, tag: int = 0) -> MPIWork:
        """Receive a tensor from a rank of the group."""
        host = room_on_host(tensors[0])

        def start() -> list[MPI.Request]:
            return [self._communicator.Irecv(buffer(host), rank, tag)]

        return self._run(f"receive from rank {rank}", start, copied(tensors, [host]))

    def recv_anysource(self, tensors: Tensors, tag: int = 0) -> MPIWork:
        """Receive a tensor from any rank of the group."""
        return self.recv(tensors, MPI.ANY_SOURCE, tag)

    def barrier(self, opts: Any = None, *_: Any, **__: Any) -> MPIWork:
        """Wait for all ranks of the group."""
        return self._run("barrier", lambda: [self._communicator.Ibarrier()], list, opts)

    def set_timeout(self, timeout: timedelta) -> None:
        """The longest time that an operation may take, if it does not say so itself."""
        self._timeout = timeout

    def _get_sequence_number_for_group(self) -> int:
        return self._started

    def shutdown(self) -> None:
        """After that of the first group, MPI is finalized at the end of the process."""
        global _is_shut_down
        _is_shut_down = _is_shut_down or self._is_world

    abort = shutdown

    def _run(
        self,
        name: str,
        start: Callable[[], Sequence[MPI.Request]],
        finish: Finish,
        opts: Any = None,
    ) -> MPIWork:
        stated: timedelta | None = getattr(opts, "timeout", None)
        timeout = stated if stated is not None and stated > timedelta(0) else self._timeout
        assert _progress is not None
        self._started += 1
        return _progress.start(name, start, finish, timeout)

    def _reduced(self, tensors: Tensors, hosts: Tensors, opts: Any) -> Finish:
        copy_back = copied(tensors, hosts)

        def finish() -> list[torch.Tensor]:
            if opts.reduceOp == dist.ReduceOp.AVG:
                for host in hosts:
                    host /= self.size()
            return copy_back()

        return finish


def register_mpi() -> None:
    """Let `init_process_group(NAME)` make these groups."""
    if NAME not in dist.Backend.backend_list:
        dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu", "cuda"])


def _create(options: Any, _: Any) -> MPIProcessGroup:
    """Make a group; called by its members. Raises RuntimeError if MPI started other ranks than the launcher says."""
    global _progress, _is_shut_down
    world, ranks = MPI.COMM_WORLD, list(options.global_ranks_in_group)
    if _progress is None:
        _progress = MPIProgress()
        atexit.register(_finalize)
    if not ranks:
        found, expected = (world.rank, world.size), (options.group_rank, options.group_size)
        if found != expected:
            raise RuntimeError(
                f"MPI says rank {found[0]} of {found[1]}, the launcher rank {expected[0]} of {expected[1]}; "
                "start the ranks with mpiexec"
            )
        _is_shut_down = False
    with _progress.mpi:
        communicator = world.Create_group(world.group.Incl(ranks)) if ranks else world.Dup()
    group = MPIProcessGroup(communicator, options.timeout)
    group._is_world = not ranks
    return group


def _finalize() -> None:
    """Not after an error: MPI would wait for the other ranks. Without it, mpiexec ends them."""
    if _is_shut_down and _progress is not None and _progress.is_idle:
        MPI.Finalize()
