"""Exchange the halos of yolov5n's layers between two hosts, and nothing else; rank 0 writes the interfaces'
bytes per pass, and the meter's factor for headers."""

import json
import time

import deepspeed.comm
import torch
import torch.distributed as dist

from tests.workers.arguments import worker_arguments
from yolo.architecture import windows
from yolo.calibration.collectives import interface_bytes
from yolo.communication.metering.wire_bytes import tcp_bytes_per_payload_byte
from yolo.communication.sharding.column_group import ColumnGroup
from yolo.communication.sharding.halo import with_halo
from yolo.communication.sharding.halo_size import Halo

PASSES = 5
SETTLED_SECONDS = 0.3
"""The last acknowledgements."""


def main() -> None:
    parser = worker_arguments()
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--pixels", type=int, required=True)
    options = parser.parse_args()
    deepspeed.comm.init_distributed("gloo", verbose=False, auto_mpi_discovery=False)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    columns = ColumnGroup.of(rank, ranks, dist.group.WORLD)
    stripes = []
    for number, layer in enumerate(windows("n")):
        rows = options.pixels // layer.reduction
        stripe = torch.ones(options.images, layer.channels, rows, rows // ranks)
        halo = Halo.of(layer.kernel, layer.stride, layer.padding)
        stripes.append((stripe.requires_grad_(number > 0), halo))  # images need no gradient

    def exchange() -> None:
        for stripe, halo in stripes:
            padded = with_halo(stripe, halo, columns)
            if stripe.requires_grad:
                padded.sum().backward()

    exchange()
    dist.barrier()
    time.sleep(SETTLED_SECONDS)
    before = interface_bytes()
    for _ in range(PASSES):
        exchange()
    time.sleep(SETTLED_SECONDS)
    sent = torch.tensor([(interface_bytes() - before) / PASSES], dtype=torch.float64)
    dist.all_reduce(sent)
    if rank == 0:
        found = {"sent": sent.item() / ranks, "framing": tcp_bytes_per_payload_byte()}
        options.out.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


main()
