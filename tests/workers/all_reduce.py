"""All-reduces of a known size, and the bytes that the host's interface sent and received during them."""

import json
import os
import socket
from pathlib import Path

import deepspeed.comm as dist
import torch

from tests.workers.arguments import worker_arguments
from yolo.recipe import prepare
from yolo.training.engine.distributed import init_distributed, shutdown_distributed

ELEMENTS = 2**20
TIMES = 3


def eth0() -> tuple[int, int]:
    """Bytes sent and received."""
    rows = Path("/proc/net/dev").read_text().splitlines()
    row = next(line for line in rows if line.strip().startswith("eth0:"))
    figures = [int(figure) for figure in row.split(":")[1].split()]
    return figures[8], figures[0]


def main() -> None:
    options = worker_arguments().parse_args()
    world_size = int(os.environ["WORLD_SIZE"])
    ranks = init_distributed(prepare("recipes/demo.yaml", world_size=world_size).resolved.recipe)
    tensor = torch.full((ELEMENTS,), float(ranks.rank + 1))
    dist.barrier()
    before = eth0()
    for _ in range(TIMES):
        dist.all_reduce(tensor)
    dist.barrier()
    sent, received = (after - earlier for after, earlier in zip(eth0(), before, strict=True))
    found = {
        "host": socket.gethostname(),
        "value": tensor[0].item(),
        "payload": TIMES * tensor.numel() * tensor.element_size(),
        "sent": sent,
        "received": received,
    }
    options.out.with_suffix(f".{ranks.rank}.json").write_text(json.dumps(found))


main()
shutdown_distributed()
