"""When torch's SyncBatchNorm exchanges statistics, counted on a made-up GPU: on a processor it refuses to run at all."""

import json
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import batchnorm

from tests.workers.arguments import worker_arguments
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.training.ranks import join, leave


def exchanges(group: torch.distributed.ProcessGroup | None) -> int:
    """Calls that exchange statistics, in one forward pass of YOLOv5n."""
    counted = 0

    def exchanged(input: torch.Tensor, *_: object) -> torch.Tensor:
        nonlocal counted
        counted += 1
        return input

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.object(batchnorm.sync_batch_norm, "apply", exchanged),
        torch.device("cuda"),
    ):
        model = YOLOv5("n", 3)
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model, group)
        model(torch.empty(1, 3, 64, 64))
    return counted


def main() -> None:
    options = worker_arguments().parse_args()
    ranks = join(prepare("recipes/demo.yaml", ["train.global_batch=4"], 2).resolved.recipe)
    groups = [torch.distributed.new_group([rank]) for rank in range(2)]
    layers = sum(isinstance(m, torch.nn.BatchNorm2d) for m in YOLOv5("n", 3).modules())
    found = {
        "layers": layers,
        "of two ranks": exchanges(None),
        "of one rank": exchanges(groups[ranks.rank]),
    }
    if ranks.is_first:
        options.out.write_text(json.dumps(found))


main()
leave()
