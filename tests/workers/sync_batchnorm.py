"""With whom BatchNorm shares its statistics: four ranks, as if two shared a node."""

import json
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.workers.arguments import worker_arguments
from yolo.communication.sharding.batchnorm import SharedBatchNorm2d
from yolo.errors import LaunchError
from yolo.model import YOLOv5
from yolo.recipe import Recipe, prepare
from yolo.training.engine.build import start_engine
from yolo.training.engine.distributed import (
    all_gather_object,
    check_nodes_agree,
    init_distributed,
    shutdown_distributed,
)

RANKS_PER_NODE = 2


def on_nodes_of(ranks: int, recipe: Recipe) -> Recipe:
    cluster = recipe.cluster.model_copy(update={"processes_per_node": ranks})
    return recipe.model_copy(update={"cluster": cluster})


def distance_of_gradient(rank: int, group: Any, dtype: torch.dtype) -> float:
    """Of features in 16 bits, from that of plain BatchNorm over both ranks' images in float64; relative, rms."""
    generator = torch.Generator().manual_seed(rank)
    draw = partial(torch.randn, 8, 16, 40, 40, generator=generator)
    features, gradient = (draw() * 2 + 3).to(dtype), ((draw() + 1.3) * 0.01).to(dtype)
    both: list[Any] = [None] * RANKS_PER_NODE
    torch.distributed.all_gather_object(both, (features, gradient), group=group)
    of_all, gradients = (torch.cat(each).double() for each in zip(*both, strict=True))
    of_all.requires_grad_()
    plain = nn.BatchNorm2d(16).double()
    plain(of_all).backward(gradients)
    shared = SharedBatchNorm2d.of(nn.BatchNorm2d(16), group)
    shared(features.requires_grad_()).backward(gradient)
    assert of_all.grad is not None and features.grad is not None
    expected = of_all.grad.chunk(RANKS_PER_NODE)[rank % RANKS_PER_NODE]
    return float((features.grad - expected).norm() / expected.norm())


def main() -> None:
    options = worker_arguments().parse_args()
    settings = ["train.global_batch=4", "model.sync_batchnorm=true"]
    recipe = prepare("recipes/demo.yaml", settings, 4).resolved.recipe
    context = init_distributed(recipe)
    recipe = on_nodes_of(RANKS_PER_NODE, recipe)
    refusal = ""
    try:
        check_nodes_agree(on_nodes_of(1 if context.rank == 0 else 2, recipe), context)
    except LaunchError as error:
        refusal = str(error)
    engine = start_engine(YOLOv5("n", 3), recipe, context)
    layers = [m for m in engine.module.modules() if isinstance(m, SharedBatchNorm2d)]
    groups = {m.group for m in layers}
    (group,) = groups
    ranks = torch.tensor(1 << context.rank)
    torch.distributed.all_reduce(ranks, group=group)
    found = {
        "layers": len(layers),
        "ranks, as bits": all_gather_object(context, int(ranks)),
        "uneven nodes": all_gather_object(context, refusal),
        "gradients": {
            str(dtype): max(
                all_gather_object(context, distance_of_gradient(context.rank, group, dtype))
            )
            for dtype in (torch.bfloat16, torch.float16)
        },
    }
    if context.is_main:
        options.out.write_text(json.dumps(found))


main()
shutdown_distributed()
