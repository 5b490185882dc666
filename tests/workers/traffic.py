"""Each collective once, counted by the meter and by the loopback interface; and the results of the coalesced ones."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import deepspeed.comm as dist
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

from tests.workers.arguments import worker_arguments
from yolo.communication.coalesced import all_reduce_mean, broadcast_coalesced, gather_flat
from yolo.communication.metering.meter import TrafficMeter
from yolo.recipe import prepare
from yolo.training.engine.distributed import init_distributed, shutdown_distributed

ELEMENTS = 4 * 2**20


def loopback_bytes() -> int:
    row = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line)
    return int(row.split(":")[1].split()[8])


def halves(tensor: torch.Tensor) -> list[torch.Tensor]:
    return list(tensor.chunk(2))


def functions() -> list[object]:
    """What a meter may replace: torch's functions, and those that DeepSpeed keeps."""
    backend = dist.comm.cdb
    holders = (torch.distributed, torch.distributed.distributed_c10d)
    return [
        *(value for holder in holders for value in vars(holder).values() if callable(value)),
        *(backend.all_gather_function, backend.reduce_scatter_function),
        vars(torch._C.Future)["wait"],
    ]


def main() -> None:
    options = worker_arguments().parse_args()
    ranks = init_distributed(prepare("recipes/demo.yaml", world_size=2).resolved.recipe)
    originals = functions()
    meter = TrafficMeter().attach()
    big = torch.ones(ELEMENTS)
    half = torch.ones(ELEMENTS // 2)
    other = torch.empty_like(big)
    hooked = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2048, 2048, bias=False))
    hooked.register_comm_hook(None, fp16_compress_hook)
    collectives = {
        "all_reduce": lambda: dist.all_reduce(big),
        "all_reduce_direct": lambda: torch.distributed.all_reduce(big),
        "all_reduce_async": lambda: dist.all_reduce(big, async_op=True).wait(),
        "all_reduce_future": lambda: (
            torch.distributed.all_reduce(big, async_op=True).get_future().wait()
        ),
        "chained_futures": lambda: (
            torch.distributed.all_reduce(big, async_op=True)
            .get_future()
            .then(lambda _: dist.all_reduce(other, async_op=True).get_future().wait())
            .wait()
        ),
        "broadcast": lambda: dist.broadcast(big, 0),
        "reduce": lambda: dist.reduce(big[: 2**20], 0),
        "all_gather": lambda: dist.all_gather(halves(big), half),
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(big, half),
        "all_gather_single_direct": lambda: torch.distributed.all_gather_single(big, half),
        "gather": lambda: dist.gather(big, [other, other] if ranks.is_main else None, 0),
        "scatter": lambda: dist.scatter(other, [big, big] if ranks.is_main else None, 0),
        "reduce_scatter": lambda: dist.reduce_scatter(half, halves(big)),
        "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(half, big),
        "all_to_all_single": lambda: dist.all_to_all_single(other, big),
        "batch_isend_irecv": lambda: [
            work.wait()
            for work in torch.distributed.batch_isend_irecv(
                [
                    torch.distributed.P2POp(torch.distributed.isend, big, 1 - ranks.rank),
                    torch.distributed.P2POp(torch.distributed.irecv, other, 1 - ranks.rank),
                ]
            )
        ],
        "object": lambda: torch.distributed.broadcast_object_list(["x" * 2**23]),
        "communication_hook": lambda: hooked(torch.ones(1, 2048)).sum().backward(),
    }
    found = {}
    for name, collective in collectives.items():
        sent = float("inf")
        for _ in range(30):  # others may use the interface too, and can only add to the count
            dist.barrier()
            meter.take()
            before = loopback_bytes()
            collective()
            dist.barrier()
            traffic = meter.take()
            sent = min(sent, (loopback_bytes() - before) / ranks.world_size)
            most = torch.tensor(sent / max(1, traffic.wire_bytes))
            dist.all_reduce(most, dist.ReduceOp.MAX)
            if most < 1.01:
                break
        found[name] = {"interface": sent, **asdict(traffic)}

    dist.barrier()
    meter.take()
    work = dist.all_reduce(big, async_op=True)
    time.sleep(0.3)  # computing
    work.wait()
    hidden = meter.take()
    found["hidden"] = {"seconds": hidden.seconds, "exposed_seconds": hidden.exposed_seconds}

    meter.detach()
    dist.all_reduce(big)
    torch.distributed.all_reduce(big, async_op=True).get_future().wait()
    found["after_detach"] = meter.take().calls
    found["is_restored"] = all(
        now is before for now, before in zip(functions(), originals, strict=True)
    )

    odd = [
        torch.full((3,), float(ranks.rank)),
        torch.tensor(7 + ranks.rank),
        torch.full((2, 2), 1.0),
    ]
    broadcast = [odd[0].clone(), odd[1].clone(), torch.tensor([True, ranks.rank == 0, False])]
    broadcast_coalesced(broadcast)
    averaged = [odd[0].clone(), odd[1].clone()]
    all_reduce_mean(averaged)
    gathered = gather_flat([odd[0], odd[2].reshape(-1)])
    if ranks.is_main:
        found["flat"] = {
            "broadcast": [tensor.tolist() for tensor in broadcast],
            "averaged": [tensor.tolist() for tensor in averaged],
            "gathered": [tensor.tolist() for tensor in gathered],
        }
    holder = [None, None]
    torch.distributed.all_gather_object(
        holder, found.get("flat") or [t.tolist() for t in broadcast]
    )
    if ranks.is_main:
        found["broadcast_on_second"] = holder[1]
        options.out.write_text(json.dumps(found))


main()
shutdown_distributed()
