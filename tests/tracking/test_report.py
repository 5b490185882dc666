import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.tracking.synthetic_records import evaluation, sample
from yolo.bench.speed.generated import generate
from yolo.evaluation.coco_ap import measure
from yolo.tracking import charts
from yolo.tracking.history import History, LossPoint, PrecisionPoint
from yolo.tracking.report import Chart, ReportContent, write_report

HISTORY = History(
    (LossPoint(1, 1, 1, 1), LossPoint(2, 0.5, float("nan"), 1)), (PrecisionPoint(1, 0.1, 0.2),)
)


def decoded(png: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


@pytest.mark.parametrize("history", [HISTORY, History((), ())])
def test_the_training_chart_is_a_picture_even_of_nothing(history: History) -> None:
    assert decoded(charts.training_chart(history)).std() > 1


@pytest.mark.parametrize(("images", "classes"), [(5, 2), (0, 2), (20, 30)])
def test_charts_of_evaluations_are_pictures_whatever_was_found(images: int, classes: int) -> None:
    truth, detections = generate(images, classes)
    metrics = measure(detections, truth)
    assert decoded(charts.precision_recall_chart(metrics)).std() > 1
    assert decoded(charts.confusion_chart(metrics.confusion)).std() > 1


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what is read and where pictures come from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.sources: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path) -> Page:
    metrics = evaluation()
    content = ReportContent(
        title="demo <run> $5",
        summary=[("AP", "0.5 & more"), ("<script>", "alert(1)")],
        charts=[Chart("Training", charts.training_chart(HISTORY))],
        classes=metrics.per_class,
        samples=[sample("<b>.jpg")],
        class_names=["<i>cat", "b", "c"],
        recipe="train:\n  epochs: 3  # <default> ${x}",
    )
    write_report(tmp_path / "report.html", content)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    return Page((tmp_path / "report.html").read_text())


def test_everything_is_on_the_page_and_escaped(page: Page) -> None:
    for text in (
        "demo <run> $5",
        "0.5 & more",
        "<script>",
        "<i>cat 0.91",
        "<b>.jpg",
        "# <default> ${x}",
    ):
        assert text in page.text
    assert not {"script", "i", "b", "run"} & set(page.tags)


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)


def test_embedded_pictures_can_be_decoded(page: Page) -> None:
    for source in page.sources:
        decoded(base64.b64decode(re.sub("^data:image/[a-z]+;base64,", "", source)))


def test_samples_show_true_and_predicted_boxes(page: Page) -> None:
    assert page.tags.count("rect") == 3


def test_an_empty_report_is_a_page_too(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", ReportContent("nothing yet", []))
    assert "nothing yet" in Page((tmp_path / "r.html").read_text()).text
