"""A training that was never run, as tracking is told of it."""

from dataclasses import replace

import numpy as np

from yolo.bench.speed.generated import generate
from yolo.communication.metering.traffic import KindTraffic
from yolo.evaluation.coco_ap import measure
from yolo.evaluation.metrics import Metrics
from yolo.tracking.records import SampleBox, SamplePicture, StepCosts, StepMetrics

COSTS = StepCosts(
    step_seconds=0.1,
    images_per_second=120.0,
    data_wait_seconds=0.001,
    communication_seconds=0.02,
    exposed_communication_seconds=0.005,
    payload_bytes=3.4e6,
    wire_bytes=3.5e6,
    traffic_by_kind={"all_reduce": KindTraffic(2, 3.4e6, 3.5e6, 0.02, 0.005)},
)


def step_metrics(step: int, epoch: float, loss_box: float = 1.5) -> StepMetrics:
    """The metrics of some steps up to `step`."""
    return StepMetrics(step, epoch, 0.0, loss_box, 2.0, 0.5, 0.01, 7.0, COSTS)


def evaluation(ap: float | None = None) -> Metrics:
    """Real metrics of generated boxes of three classes; another AP where one is given."""
    truth, detections = generate(12, 3)
    metrics = measure(detections, truth)
    return metrics if ap is None else replace(metrics, ap=ap)


def sample(name: str = "street.jpg") -> SamplePicture:
    """40 wide, 30 high, one true and two predicted boxes."""
    image = np.full((30, 40, 3), 90, dtype=np.uint8)
    true = (SampleBox(2, 3, 20, 25, 0),)
    predicted = (SampleBox(3, 3, 21, 24, 0, 0.91), SampleBox(25, 5, 35, 28, 2, 0.4))
    return SamplePicture(name, image, true, predicted)
