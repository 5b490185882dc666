"""With whom torch's SyncBatchNorm exchanges statistics, on a made-up GPU: on a processor it refuses to run at all.

Four ranks, as if two shared a node.
"""

import json
from collections.abc import Callable
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed import ProcessGroup
from torch.nn.modules import batchnorm

from tests.workers.arguments import worker_arguments
from yolo.errors import LaunchError
from yolo.model import YOLOv5
from yolo.recipe import Recipe, prepare
from yolo.training.engine.build import start_engine
from yolo.training.engine.distributed import (
    all_gather_object,
    check_nodes_agree,
    init_distributed,
    node_group,
    shutdown_distributed,
)

RANKS_PER_NODE = 2


def exchanges(group: ProcessGroup) -> bool:
    """Whether a layer exchanges statistics with a group, or normalises by itself."""
    taken: list[bool] = []

    def way(is_exchange: bool) -> Callable[..., torch.Tensor]:
        def go(input: torch.Tensor, *_: object) -> torch.Tensor:
            taken.append(is_exchange)
            return input

        return go

    with (
        FakeTensorMode(),
        mock.patch.object(batchnorm.sync_batch_norm, "apply", way(True)),
        mock.patch.object(batchnorm.F, "batch_norm", way(False)),
    ):
        torch.nn.SyncBatchNorm(4, process_group=group, device="cuda")(
            torch.empty(2, 4, 8, 8, device="cuda")
        )
    (is_exchange,) = taken
    return is_exchange


def on_nodes_of(ranks: int, recipe: Recipe) -> Recipe:
    cluster = recipe.cluster.model_copy(update={"processes_per_node": ranks})
    return recipe.model_copy(update={"cluster": cluster})


def main() -> None:
    options = worker_arguments().parse_args()
    recipe = prepare("recipes/demo.yaml", ["train.global_batch=4"], 4).resolved.recipe
    model = recipe.model.model_copy(update={"sync_batchnorm": True})  # the rules refuse it on gloo
    recipe = recipe.model_copy(update={"model": model})
    context = init_distributed(recipe)
    of_one_rank = node_group(on_nodes_of(1, recipe), context)
    recipe = on_nodes_of(RANKS_PER_NODE, recipe)
    refusal = ""
    try:
        check_nodes_agree(on_nodes_of(1 if context.rank == 0 else 2, recipe), context)
    except LaunchError as error:
        refusal = str(error)
    engine = start_engine(YOLOv5("n", 3), recipe, context)
    layers = [m for m in engine.module.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    groups = {m.process_group for m in layers}
    (group,) = groups
    ranks = torch.tensor(1 << context.rank)
    torch.distributed.all_reduce(ranks, group=group)
    found = {
        "layers": len(layers),
        "ranks, as bits": all_gather_object(context, int(ranks)),
        "of a node": exchanges(group),
        "of one rank": exchanges(of_one_rank),
        "uneven nodes": all_gather_object(context, refusal),
    }
    if context.is_main:
        options.out.write_text(json.dumps(found))


main()
shutdown_distributed()
