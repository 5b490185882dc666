"""An evaluation from images to figures: every rank detects in its share of the images, the first rank judges all."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import Tensor, nn

from yolo.data.counting import Advance
from yolo.data.letterbox import Letterbox
from yolo.data.samples import EvaluationBatch, to_network
from yolo.evaluation.average_precision import measure
from yolo.evaluation.detections import Detections, GroundTruth, merge
from yolo.evaluation.metrics import Metrics
from yolo.model.nms import non_maximum_suppression
from yolo.recipe.sections.evaluation import EvaluationSection

Gather = Callable[[list[Detections]], list[list[Detections]] | None]
"""Takes a rank's detections, gives the first rank those of all ranks and the others None."""


def evaluate(
    model: nn.Module,
    batches: Iterable[EvaluationBatch],
    truth: GroundTruth,
    settings: EvaluationSection,
    device: torch.device,
    gather: Gather = lambda mine: [mine],
    advance: Advance = lambda images: None,
) -> Metrics | None:
    """The metrics on the first rank, None on the others.

    `batches` are this rank's share; all shares together must hold each image of `truth` (else ValueError on the first
    rank), in any order: the metrics depend neither on it nor on the number of ranks. `gather` is
    `gather_to_first_rank` where there are several. `advance` is told after each batch how many images it had. The
    model's modes are as before afterwards.
    """
    mine: list[Detections] = []
    with evaluation_mode(model):
        for batch in batches:
            mine += _detect(model, batch, settings, device)
            advance(len(batch.image_ids))
    parts = gather(mine)
    return None if parts is None else measure(merge(parts, truth), truth)


def gather_to_first_rank(mine: list[Detections]) -> list[list[Detections]] | None:
    """Collective. Right for gloo, and for nccl where each rank has set its CUDA device."""
    if torch.distributed.get_rank() != 0:
        torch.distributed.gather_object(mine, None, dst=0)
        return None
    parts: list[list[Detections]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.gather_object(mine, parts, dst=0)
    return parts


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for a while; each module's own mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def in_original(rows: Tensor, letterbox: Letterbox, image_id: int) -> Detections:
    """One image's rows (K, 6) of non-maximum suppression, its boxes back in the original's pixels."""
    found = rows.float().cpu().numpy()
    return Detections(
        image_id, letterbox.boxes_back(found[:, :4]), found[:, 4], found[:, 5].astype("int64")
    )


def _detect(
    model: nn.Module, batch: EvaluationBatch, settings: EvaluationSection, device: torch.device
) -> list[Detections]:
    per_image = non_maximum_suppression(
        model(to_network(batch.images, device)),
        settings.confidence,
        settings.iou,
        settings.max_detections,
        multi_label=True,
    )
    return [
        in_original(rows, letterbox, image_id)
        for rows, letterbox, image_id in zip(
            per_image, batch.letterboxes, batch.image_ids, strict=True
        )
    ]
