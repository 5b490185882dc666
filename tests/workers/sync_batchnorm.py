"""When torch's SyncBatchNorm exchanges statistics, counted on a made-up GPU: on a processor it refuses to run at all."""

import json
from collections.abc import Callable
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import batchnorm

from tests.workers.arguments import worker_arguments
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.training.engine.distributed import init_distributed, shutdown_distributed


def exchanges(group: torch.distributed.ProcessGroup | None) -> bool:
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


def main() -> None:
    options = worker_arguments().parse_args()
    ranks = init_distributed(
        prepare("recipes/demo.yaml", ["train.global_batch=4"], 2).resolved.recipe
    )
    groups = [torch.distributed.new_group([rank]) for rank in range(2)]
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(YOLOv5("n", 3))
    found = {
        "layers": sum(isinstance(m, torch.nn.SyncBatchNorm) for m in converted.modules()),
        "of two ranks": exchanges(None),
        "of one rank": exchanges(groups[ranks.rank]),
    }
    if ranks.is_main:
        options.out.write_text(json.dumps(found))


main()
shutdown_distributed()
