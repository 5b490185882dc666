"""Each collective once, counted by the meter and by the loopback interface; and the flat collectives' results."""

import json
from pathlib import Path

import deepspeed.comm as dist
import torch

from tests.workers.arguments import worker_arguments
from yolo.communication.flat import average_over_ranks, broadcast_from_first, gather_flat
from yolo.communication.meter import TrafficMeter
from yolo.recipe import prepare
from yolo.training.ranks import join, leave

ELEMENTS = 4 * 2**20


def loopback_bytes() -> int:
    row = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line)
    return int(row.split(":")[1].split()[8])


def main() -> None:
    options = worker_arguments().parse_args()
    ranks = join(prepare("recipes/demo.yaml", world_size=2).resolved.recipe)
    meter = TrafficMeter().attach()
    big = torch.ones(ELEMENTS)
    half = torch.ones(ELEMENTS // 2)
    collectives = {
        "all_reduce": lambda: dist.all_reduce(big),
        "all_reduce_async": lambda: dist.all_reduce(big, async_op=True).wait(),
        "broadcast": lambda: dist.broadcast(big, 0),
        "reduce": lambda: dist.reduce(big, 0),
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(big, half),
        "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(half, big),
        "all_to_all_single": lambda: dist.all_to_all_single(torch.empty_like(big), big),
    }
    found = {}
    for name, collective in collectives.items():
        sent = float("inf")
        for _ in range(3):  # others may use the interface too, and can only add to the count
            dist.barrier()
            meter.take()
            before = loopback_bytes()
            collective()
            dist.barrier()
            traffic = meter.take()
            sent = min(sent, (loopback_bytes() - before) / ranks.world_size)
        found[name] = {
            "calls": traffic.calls,
            "payload": traffic.payload_bytes,
            "metered": traffic.wire_bytes,
            "interface": sent,
            "seconds": traffic.seconds,
        }
    meter.detach()
    dist.all_reduce(big)
    found["after_detach"] = meter.take().calls

    odd = [
        torch.full((3,), float(ranks.rank)),
        torch.tensor(7 + ranks.rank),
        torch.full((2, 2), 1.0),
    ]
    broadcast = [odd[0].clone(), odd[1].clone(), torch.tensor([True, ranks.rank == 0, False])]
    broadcast_from_first(broadcast)
    averaged = [odd[0].clone(), odd[1].clone()]
    average_over_ranks(averaged)
    gathered = gather_flat([odd[0], odd[2].reshape(-1)])
    if ranks.is_first:
        found["flat"] = {
            "broadcast": [tensor.tolist() for tensor in broadcast],
            "averaged": [tensor.tolist() for tensor in averaged],
            "gathered": [tensor.tolist() for tensor in gathered],
        }
    holder = [None, None]
    torch.distributed.all_gather_object(
        holder, found.get("flat") or [t.tolist() for t in broadcast]
    )
    if ranks.is_first:
        found["broadcast_on_second"] = holder[1]
        options.out.write_text(json.dumps(found))


main()
leave()
