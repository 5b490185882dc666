"""The gradient of one step under DeepSpeed against plain torch DDP's, in every precision; rank 1 may have no boxes.

The same weights, images and targets go through both. DDP averages over the ranks as DeepSpeed does; its loss is
divided by the accumulation steps by hand. What DeepSpeed did is read back from the weights after one step of SGD
without momentum, weight decay or clipping at lr 1: the difference is the gradient.
"""

import contextlib
import copy
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch

from tests.workers.several import report_each
from yolo.model import YOLOv5
from yolo.model.loss import DetectionLoss, Normaliser
from yolo.recipe import Recipe, prepare
from yolo.training.engine.build import start_engine
from yolo.training.engine.distributed import DistributedContext, init_distributed
from yolo.training.engine.ema import ModelEMA

LOSS_SCALE = 65536.0
"""Where DeepSpeed's fp16 starts; the reference needs one as well, and a power of two rounds nothing in the others."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PLAIN_SGD = [
    *(
        "optimizer.type=SGD",
        "optimizer.lr=1.0",
        "optimizer.momentum=0.0",
        "optimizer.nesterov=false",
    ),
    *("optimizer.weight_decay=0.0", "train.gradient_clipping=0.0", "train.global_batch=8"),
    *("model.image_size=64", "train.ema=false"),
]


CASES = {
    "fp32, accumulated": ["train.gradient_accumulation_steps=2"],
    "fp32": [],
    # From its first autocast engine on, DeepSpeed takes the whole process for one under autocast.
    "bf16": ["precision.dtype=bf16"],
    "fp16": ["precision.dtype=fp16"],
}
"""Overrides of each case; in all but the first rank 1 has no boxes."""


def in_every_precision(settings: list[str], _: Path) -> dict[str, Any]:
    found = {}
    for case, overrides in CASES.items():
        recipe = prepare(
            "recipes/demo.yaml", [*PLAIN_SGD, *settings, *overrides], 2
        ).resolved.recipe
        found[case] = compare(recipe, init_distributed(recipe), "accumulated" not in case)
    return found


def compare(
    recipe: Recipe, ranks: DistributedContext, is_second_rank_empty: bool
) -> dict[str, Any]:
    torch.manual_seed(0)
    model = YOLOv5("n", 3)
    before = copy.deepcopy(model)
    reference = copy.deepcopy(model)
    plain = copy.deepcopy(model)
    engine = start_engine(model, recipe, ranks)
    criterion = DetectionLoss(before.anchors, before.stride, 3, 64)

    steps, micro = recipe.train.gradient_accumulation_steps, recipe.train.micro_batch
    generator = torch.Generator().manual_seed(1 + ranks.rank)
    images = torch.rand(steps, micro, 3, 64, 64, generator=generator)
    targets = [random_targets(micro, generator) for _ in range(steps)]
    if is_second_rank_empty and ranks.rank == 1:
        targets = [target[:0] for target in targets]
    assignments = [criterion.assign(target, images[0].shape) for target in targets]
    matches = torch.stack([assignment.matches for assignment in assignments]).sum(0).float()
    dist.all_reduce(matches)
    normaliser = Normaliser(matches=matches, images=8, shards=ranks.world_size * steps)

    # So small that DeepSpeed's first loss scale overflows no fp16 gradient, and the one step is not skipped.
    scale = 1e-3
    for k in range(steps):
        loss, _ = criterion(engine(images[k]), assignments[k], normaliser)
        engine.backward(loss * scale)
        engine.step()
    ModelEMA(engine.module, recipe.train).write_into(plain)
    wrapped = torch.nn.parallel.DistributedDataParallel(reference)
    precision = DTYPES.get(recipe.precision.dtype)
    autocast = torch.autocast("cpu", dtype=precision) if precision else contextlib.nullcontext()
    for k in range(steps):
        with wrapped.no_sync() if k < steps - 1 else contextlib.nullcontext():
            with autocast:
                predictions = wrapped(images[k])
            loss, _ = criterion(predictions, assignments[k], normaliser)
            (loss * scale * LOSS_SCALE / steps).backward()

    ours, theirs, missing = [], [], []
    for (name, start), end, ddp in zip(
        before.named_parameters(), plain.parameters(), reference.parameters(), strict=True
    ):
        if ddp.grad is None:
            missing.append(name)
            continue
        ours.append((start - end).detach().double().reshape(-1))
        theirs.append(ddp.grad.double().reshape(-1) / LOSS_SCALE)
    ours_flat, theirs_flat = torch.cat(ours), torch.cat(theirs)
    return {
        "relative_difference": float((ours_flat - theirs_flat).norm() / theirs_flat.norm()),
        "norm": float(theirs_flat.norm()),
        "missing": missing,
        "matches": matches.tolist(),
    }


def random_targets(images: int, generator: torch.Generator) -> torch.Tensor:
    """Two boxes an image: (2 x images, 6) image, class, centre and size."""
    rows = []
    for image in range(images):
        for _ in range(2):
            x, y, w, h = torch.rand(4, generator=generator).tolist()
            kind = int(torch.randint(3, (1,), generator=generator))
            rows.append([image, kind, 0.2 + 0.6 * x, 0.2 + 0.6 * y, 0.1 + 0.4 * w, 0.1 + 0.4 * h])
    return torch.tensor(rows)


report_each(in_every_precision)
