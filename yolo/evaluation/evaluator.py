"""An evaluation from images to figures: each rank detects in its share of the images, then judges its share of the classes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from yolo.data.image.letterbox import Letterbox
from yolo.data.loader.samples import EvaluationBatch, to_network
from yolo.data.progress_protocol import ProgressCallback
from yolo.evaluation.coco_ap import ClassTables, judge, summarise
from yolo.evaluation.confusion import confusion_matrix
from yolo.evaluation.detections import Detections, GroundTruth, merge
from yolo.evaluation.gather import Gather, LocalGather
from yolo.evaluation.metrics import Metrics
from yolo.model.nms import non_maximum_suppression
from yolo.recipe.schema.evaluation import EvaluationSection

LOCAL = LocalGather()


def evaluate(
    model: nn.Module,
    batches: Iterable[EvaluationBatch],
    truth: GroundTruth,
    settings: EvaluationSection,
    device: torch.device,
    peers: Gather = LOCAL,
    advance: ProgressCallback = lambda images: None,
) -> Metrics | None:
    """The metrics on the first rank, None on the others.

    `batches` are this rank's share; all shares together must hold each image of `truth` once (else ValueError on the
    ranks that judge), in any order: the metrics depend neither on it nor on the number of ranks. `advance` is told
    after each batch how many images it had. The model's modes are as before afterwards.
    """
    mine: list[Detections] = []
    with evaluation_mode(model), _Suppression(settings, device) as suppression:
        for batch in batches:
            mine += suppression.after(model(to_network(batch.images, device)), batch)
            advance(len(batch.image_ids))
        mine += suppression.last()
    return _judged_by_all(mine, truth, peers)


def _judged_by_all(mine: list[Detections], truth: GroundTruth, peers: Gather) -> Metrics | None:
    """Each rank judges some classes in all images: a class's precision depends on its own detections alone.

    Every detection travels once, to the rank that judges its class, and tables of a fixed size from there to the first.
    """
    classes = len(truth.class_names)
    judges = min(peers.world_size, classes)
    to_judge: list[list[Detections]] = []
    for rank in range(judges):
        its_classes = range(rank, classes, judges)
        parts = peers.gather([found.of_classes(its_classes) for found in mine], rank)
        to_judge = to_judge if parts is None else parts
    # Only now: a rank that judged before the last had been served would hold up all that come after it.
    tables = ClassTables.of_no_class()
    if peers.rank < judges:
        tables = judge(merge(to_judge, truth), truth, range(peers.rank, classes, judges))
    mine.sort(key=lambda found: found.image_id)
    seen = truth.only({found.image_id for found in mine})
    confusion = confusion_matrix([found.ordered() for found in mine], seen)
    shares = peers.gather((tables, confusion, sum(map(len, mine))), 0)
    if shares is None:
        return None
    return summarise(
        ClassTables.joined([share[0] for share in shares]),
        sum((share[1].counts for share in shares[1:]), shares[0][1].counts),
        sum(share[2] for share in shares),
        truth,
    )


class _Suppression:
    """Non-maximum suppression of a batch beside the network's work on the next one.

    A thread of its own, on a GPU with a stream of its own: what it waits for there does not hold up the network.
    """

    def __init__(self, settings: EvaluationSection, device: torch.device) -> None:
        self._settings = settings
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[list[Detections]] | None = None

    def __enter__(self) -> "_Suppression":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def after(self, predictions: Tensor, batch: EvaluationBatch) -> list[Detections]:
        """Begin with a batch's predictions; returns the detections of the batch before."""
        before = self.last()
        ready = None
        if self._stream is not None:
            ready = torch.cuda.current_stream(predictions.device).record_event()
        self._pending = self._thread.submit(self._suppress, predictions, batch, ready)
        return before

    def last(self) -> list[Detections]:
        """The detections of the batch last begun with, or none."""
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
            per_image = non_maximum_suppression(
                predictions,
                self._settings.confidence,
                self._settings.iou,
                self._settings.max_detections,
                multi_label=True,
            )
            return [
                in_original(rows, letterbox, image_id)
                for rows, letterbox, image_id in zip(
                    per_image, batch.letterboxes, batch.image_ids, strict=True
                )
            ]


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
