"""BatchNorm's statistics estimated on two ranks' batches, beside those computed by hand behind the first convolution."""

import json
from typing import Any

import deepspeed.comm as dist
import torch

from tests.workers.arguments import worker_arguments
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.training.engine.batchnorm import batchnorm_statistics, estimate_statistics
from yolo.training.engine.distributed import init_distributed, shutdown_distributed

BATCHES = 3


def main() -> None:
    options = worker_arguments().parse_args()
    ranks = init_distributed(prepare("recipes/demo.yaml", [], 2).resolved.recipe)
    torch.manual_seed(0)
    model = YOLOv5("n", 3).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(ranks.rank)
    images = [
        torch.rand(2, 3, 64, 64, generator=generator) * (1 + ranks.rank) for _ in range(BATCHES)
    ]
    estimate_statistics(model, iter(images), torch.float32)
    outputs = [model.model[0].conv(batch) for batch in images]
    by_hand = torch.stack(
        [
            torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0),
            torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0),
        ]
    )
    dist.all_reduce(by_hand)
    first = model.model[0].bn
    every: list[Any] = [None] * ranks.world_size
    flat = torch.cat([each.reshape(-1) for each in batchnorm_statistics(model)])
    torch.distributed.all_gather_object(every, flat)
    changed = [
        name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])
    ]
    estimate_statistics(model, iter(images), torch.float32)
    again = torch.cat([each.reshape(-1) for each in batchnorm_statistics(model)])
    found = {
        "mean_off": float((first.running_mean - by_hand[0] / 2).abs().max()),
        "variance_off": float((first.running_var - by_hand[1] / 2).abs().max()),
        "same_on_all_ranks": torch.equal(every[0], every[1]),
        "changed": sorted({name.rpartition(".")[2] for name in changed}),
        "momentum": first.momentum,
        "same_again": torch.equal(flat, again),
    }
    if ranks.is_main:
        options.out.write_text(json.dumps(found))


main()
shutdown_distributed()
