"""An evaluation from images to figures: each rank detects in its images, then evaluates its share of the classes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from yolo.data.image.letterbox import Letterbox
from yolo.data.loader.samples import EvaluationBatch, to_network
from yolo.data.progress_protocol import ProgressCallback
from yolo.evaluation.coco_ap import ClassTables, evaluate_classes, summarise
from yolo.evaluation.confusion import confusion_matrix
from yolo.evaluation.detections import Detections, GroundTruth, merge
from yolo.evaluation.metrics import ConfusionMatrix, Metrics
from yolo.model.nms import non_maximum_suppression
from yolo.recipe.schema.train import EvaluationSection

Value = TypeVar("Value")


class Gather(Protocol):
    """The ranks of an evaluation."""

    rank: int
    world_size: int

    def gather(self, value: Value, to: int) -> list[Value] | None:
        """Every rank's value, in the order of ranks, on rank `to`; None on the others. Collective."""


class LocalGather:
    """One process that evaluates all images."""

    rank = 0
    world_size = 1

    def gather(self, value: Value, to: int) -> list[Value] | None:
        """Its own value."""
        return [value]


class ProcessGroup:
    """The ranks of torch's default group: gloo, or nccl if each rank has set its CUDA device."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def gather(self, value: Value, to: int) -> list[Value] | None:
        """Collective: each rank sends its value, pickled, only to rank `to`."""
        values = [value] * self.world_size if self.rank == to else None  # replaced on arrival
        dist.gather_object(value, values, dst=to)
        return values


LOCAL = LocalGather()


def evaluate(
    model: nn.Module,
    batches: Iterable[EvaluationBatch],
    truth: GroundTruth,
    settings: EvaluationSection,
    device: torch.device,
    ranks: Gather = LOCAL,
    advance: ProgressCallback = lambda images: None,
    multi_label: bool = True,
) -> Metrics | None:
    """The metrics on the first rank, None on the others.

    `batches` are this rank's share. All shares together must hold each image of `truth` once, in any order, else the
    ranks that evaluate classes raise ValueError. The metrics depend neither on the order nor on the number of ranks.
    `advance` gets the number of images after each batch. Without `multi_label` a box counts for its best class only, as
    `Predictor` shows it. The model's modes are restored.
    """
    found: list[Detections] = []
    with evaluation_mode(model), _AsyncNMS(settings, device, multi_label) as nms:
        for batch in batches:
            found += nms.submit(model(to_network(batch.images, device)), batch)
            advance(len(batch.image_ids))
        found += nms.result()
    return _evaluate_by_class(found, truth, ranks)


def _evaluate_by_class(
    found: list[Detections], truth: GroundTruth, ranks: Gather
) -> Metrics | None:
    """Each rank evaluates some classes in all images: a class's precision depends only on its own detections.

    Every detection is sent once, to the rank that evaluates its class; that rank sends fixed-size tables to the first.
    """
    classes = len(truth.class_names)
    evaluators = min(ranks.world_size, classes)
    own_parts: list[list[Detections]] = []
    for rank in range(evaluators):
        its_classes = range(rank, classes, evaluators)
        parts = ranks.gather([image.of_classes(its_classes) for image in found], rank)
        own_parts = own_parts if parts is None else parts
    # Evaluate only after all gathers: a rank that starts earlier would hold up the gathers that follow.
    tables: ClassTables | None = None
    if ranks.rank < evaluators:
        own_classes = range(ranks.rank, classes, evaluators)
        tables = evaluate_classes(merge(own_parts, truth), truth, own_classes)
    found.sort(key=lambda image: image.image_id)
    own_truth = truth.only({image.image_id for image in found})
    confusion = confusion_matrix([image.ordered() for image in found], own_truth)
    shares = ranks.gather((tables, confusion.counts, sum(map(len, found))), 0)
    if shares is None:
        return None
    all_tables, counts, detections = zip(*shares, strict=True)
    return summarise(
        ClassTables.concatenate([part for part in all_tables if part is not None]),
        ConfusionMatrix(confusion.labels, np.sum(counts, axis=0)),
        sum(detections),
        truth,
    )


class _AsyncNMS:
    """Non-maximum suppression of one batch while the network computes the next.

    It runs in its own thread, and on a GPU in its own stream, so that its waits do not block the network.
    """

    def __init__(
        self, settings: EvaluationSection, device: torch.device, multi_label: bool
    ) -> None:
        self._settings = settings
        self._multi_label = multi_label
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[list[Detections]] | None = None

    def __enter__(self) -> "_AsyncNMS":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def submit(self, predictions: Tensor, batch: EvaluationBatch) -> list[Detections]:
        """Start on a batch's predictions; returns the detections of the batch before."""
        before = self.result()
        ready = None
        if self._stream is not None:
            ready = torch.cuda.current_stream(predictions.device).record_event()
        self._pending = self._thread.submit(self._suppress, predictions, batch, ready)
        return before

    def result(self) -> list[Detections]:
        """The detections of the batch last submitted, if any."""
        pending, self._pending = self._pending, None
        return pending.result() if pending else []

    def _suppress(
        self, predictions: Tensor, batch: EvaluationBatch, ready: torch.cuda.Event | None
    ) -> list[Detections]:
        with torch.cuda.stream(self._stream):
            if self._stream is not None:
                assert ready is not None
                self._stream.wait_event(ready)
                predictions.record_stream(self._stream)
            settings = self._settings
            limits = settings.confidence, settings.iou, settings.max_detections
            per_image = non_maximum_suppression(predictions, *limits, self._multi_label)
            images = zip(per_image, batch.letterboxes, batch.image_ids, strict=True)
            return [to_detections(*image) for image in images]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def to_detections(rows: Tensor, letterbox: Letterbox, image_id: int) -> Detections:
    """One image's rows (K, 6) of non-maximum suppression, with boxes in the original image's pixels."""
    found = rows.float().cpu().numpy()
    boxes, scores, classes = letterbox.boxes_back(found[:, :4]), found[:, 4], found[:, 5]
    return Detections(image_id, boxes, scores, classes.astype("int64"))
