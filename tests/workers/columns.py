"""Networks sharded by columns against the plain one, over some steps of SGD.

Each argument is a case: `variant columns images height width precision steps`. Ranks beyond `columns` hold other images,
and BatchNorm's statistics are of all. The reference is the plain network in float64; what the plain network in the case's
own precision differs from it is found as well: sharding cannot be closer.
"""

import copy
import json
from collections.abc import Sequence
from typing import Any

import deepspeed.comm
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tests.workers.arguments import worker_arguments
from yolo.communication.sharding.batchnorm import SharedBatchNorm2d
from yolo.communication.sharding.column_group import ColumnGroup
from yolo.communication.sharding.columns import shard_columns
from yolo.model import YOLOv5
from yolo.model.loss import Assignment, DetectionLoss, Normaliser
from yolo.recipe.schema.model import LossSection

CLASSES = 3
PRECISIONS = {"fp32": torch.float32, "fp64": torch.float64}
Numbers = dict[str, list[Tensor]]
"""Tensors of one step, by what they are."""


class Trained:
    """A network with its optimizer."""

    def __init__(self, model: YOLOv5) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(self, pixels: Tensor, target: Assignment, shared: Normaliser, ranks: int) -> Numbers:
        """One step; the loss and the gradients are sums over `ranks`."""
        criterion = criterion_of(self.model, pixels)
        outputs = self.model(pixels)
        loss, _ = criterion(outputs, target, shared)
        self.optimizer.zero_grad()
        loss.backward()
        summed = [loss.detach(), *(p.grad for p in self.model.parameters() if p.grad is not None)]
        vector = parameters_to_vector(summed)
        if ranks > 1:
            dist.all_reduce(vector)
        vector_to_parameters(vector, summed)
        total, *gradients = summed
        self.optimizer.step()
        return {
            "loss": [total],
            "outputs": list(outputs),
            "gradients": gradients,
            "weights": list(self.model.parameters()),
            "buffers": list(self.model.buffers()),
        }


def criterion_of(model: YOLOv5, pixels: Tensor) -> DetectionLoss:
    size = pixels.shape[2]
    return DetectionLoss(model.anchors, model.stride, CLASSES, size, LossSection(cls="auto"))


def differences(ours: Numbers, expected: Numbers) -> dict[str, float]:
    """The norm of the difference over the norm, of all tensors of a kind together."""

    def flat(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([each.detach().double().flatten() for each in tensors])

    return {
        what: float((flat(ours[what]) - flat(expected[what])).norm() / flat(expected[what]).norm())
        for what in ours
    }


def compare(
    variant: str, count: int, images: int, height: int, width: int, dtype: torch.dtype, steps: int
) -> dict[str, dict[str, float]]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    everything = ranks // count * images
    group, _ = dist.new_subgroups(count)
    columns = ColumnGroup.of(rank, count, group)
    torch.manual_seed(0)
    exact = Trained(YOLOv5(variant, CLASSES).double())
    plain = Trained(copy.deepcopy(exact.model).to(dtype))
    sharded_model = copy.deepcopy(plain.model)
    SharedBatchNorm2d.convert(sharded_model, dist.group.WORLD)
    shard_columns(sharded_model, columns)
    assert list(sharded_model.state_dict()) == list(plain.model.state_dict())
    sharded = Trained(sharded_model)
    worst: dict[str, dict[str, float]] = {"sharded": {}, "plain": {}}
    first = rank // count * images
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        pixels = torch.rand(everything, 3, height, width, generator=generator).double()
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        targets = boxes(everything, generator)
        criterion = criterion_of(exact.model, pixels)
        whole = criterion.assign(targets, pixels.shape)
        shared = Normaliser(whole.matches.float(), everything, shards=1)
        expected = exact.step(pixels, whole, shared, 1)
        is_exact = dtype == torch.float64
        own_precision = expected if is_exact else plain.step(pixels.to(dtype), whole, shared, 1)

        mine = pixels[first : first + images].to(dtype)
        is_mine = (targets[:, 0] >= first) & (targets[:, 0] < first + images)
        own = targets[is_mine] - torch.tensor([first, 0, 0, 0, 0, 0])
        part = criterion.assign(own, mine.shape).stripe(columns.index, count)
        matches = part.matches.float()
        dist.all_reduce(matches)
        assert torch.equal(matches, shared.matches)
        ours = sharded.step(columns.stripe(mine), part, shared, ranks)
        stripes = [
            level[first : first + images].chunk(count, dim=3)[columns.index]
            for level in expected["outputs"]  # (B, 3, rows, columns, 5 + classes)
        ]
        found = {
            "sharded": differences(ours, expected | {"outputs": stripes}),
            "plain": differences(own_precision, expected),
        }
        for whose, each in found.items():
            for what, value in each.items():
                worst[whose][what] = max(worst[whose].get(what, 0.0), value)
    return worst


def boxes(images: int, generator: torch.Generator) -> Tensor:
    """Three boxes per image, (3 x images, 6); the first has its centre near the middle, where stripes meet."""
    rows = []
    for image in range(images):
        for number in range(3):
            x, y, w, h = torch.rand(4, generator=generator).tolist()
            x = 0.5 + 0.02 * (x - 0.5) if number == 0 else 0.1 + 0.8 * x
            rows.append([image, number % CLASSES, x, 0.1 + 0.8 * y, 0.1 + 0.4 * w, 0.1 + 0.4 * h])
    return torch.tensor(rows)


def main() -> None:
    parser = worker_arguments()
    parser.add_argument("cases", nargs="+")
    options = parser.parse_args()
    deepspeed.comm.init_distributed("gloo", verbose=False, auto_mpi_discovery=False)
    found: dict[str, Any] = {}
    for case in options.cases:
        variant, *numbers, precision, steps = case.split()
        count, images, height, width = map(int, numbers)
        worst = compare(variant, count, images, height, width, PRECISIONS[precision], int(steps))
        everywhere: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, worst)
        found[case] = {
            whose: {what: max(each[whose][what] for each in everywhere) for what in worst[whose]}
            for whose in worst
        }
    if dist.get_rank() == 0:
        options.out.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


main()
