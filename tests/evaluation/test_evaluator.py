import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yolo.data.dataset import ImageRecord
from yolo.data.image.letterbox import letterbox
from yolo.data.loader.samples import EvaluationBatch
from yolo.evaluation.detections import Detections, GroundTruth, merge
from yolo.evaluation.evaluator import evaluate
from yolo.evaluation.metrics import Metrics, metrics_to_json
from yolo.recipe.schema.train import EvaluationSection

CPU = torch.device("cpu")
SIZE = 64


class BrightSquareFinder(nn.Module):
    """Detects the bright square of each image; predictions (B, 2, 5 + 2): the square, and a wrong box of low score."""

    stride = (8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.norm.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        assert images.dtype == torch.float32
        rows = []
        for image in images:
            y, x = (image.mean(dim=0) > 0.9).nonzero(as_tuple=True)
            left, right, top, bottom = x.min(), x.max() + 1, y.min(), y.max() + 1
            square = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
            score = 0.5 + float(image[:, :4, :4].mean()) / 4
            rows.append([[*map(float, square), score, 0.9, 0.1], [20, 20, 8, 8, 0.3, 0.1, 0.8]])
        return torch.tensor(rows)


def scene(number: int) -> tuple[np.ndarray, ImageRecord]:
    """A dark image with a bright square, twice as wide as high."""
    image = np.full((64, 128, 3), 20 + number, dtype=np.uint8)
    left, top, side = 8 + 4 * number, 8 + 2 * number, 24
    image[top : top + side, left : left + side] = 255
    box = np.array([[left, top, left + side, top + side]], dtype=np.float32)
    return image, ImageRecord(
        100 - number,
        Path("a.jpg"),
        128,
        64,
        box,
        np.array([0]),
        np.array([False]),
        np.array([576.0]),
    )


SCENES = [scene(number) for number in range(10)]
TRUTH = GroundTruth(
    ("square", "nothing"), tuple(sorted((t for _, t in SCENES), key=lambda t: t.image_id))
)


def batches(numbers: list[int], size: int = 3) -> Iterator[EvaluationBatch]:
    for start in range(0, len(numbers), size):
        chosen = [SCENES[number] for number in numbers[start : start + size]]
        placed = [letterbox(image, SIZE) for image, _ in chosen]
        squares = [torch.from_numpy(square.transpose(2, 0, 1).copy()) for square, _ in placed]
        yield EvaluationBatch(
            torch.stack(squares), tuple(p for _, p in placed), tuple(t.image_id for _, t in chosen)
        )


@dataclass
class Gathering:
    """Values gathered from threads that act as ranks."""

    world_size: int
    values: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [None] * self.world_size
        self.all_are_here = Barrier(self.world_size, timeout=20)


@dataclass
class Thread:
    """A thread that acts as a rank."""

    rank: int
    gathering: Gathering

    @property
    def world_size(self) -> int:
        return self.gathering.world_size

    def gather(self, value: Any, to: int) -> list[Any] | None:
        self.gathering.values[self.rank] = value
        self.gathering.all_are_here.wait()
        values = list(self.gathering.values) if self.rank == to else None
        self.gathering.all_are_here.wait()
        return values


def evaluated(shares: list[list[int]], batch: int = 3) -> Metrics:
    """The metrics of ranks that each evaluate a share."""
    gathering = Gathering(len(shares))

    def on(rank: int) -> Metrics | None:
        return evaluate(
            BrightSquareFinder(),
            batches(shares[rank], batch),
            TRUTH,
            EvaluationSection(),
            CPU,
            Thread(rank, gathering),
        )

    with ThreadPoolExecutor(len(shares)) as threads:
        first, *others = threads.map(on, range(len(shares)))
    assert others == [None] * (len(shares) - 1)
    assert first is not None
    return first


def test_boxes_come_back_in_the_pixels_of_the_original() -> None:
    metrics = evaluated([list(range(10))])
    assert metrics.per_class[0].ap == pytest.approx(1)
    assert metrics.images == metrics.boxes == 10
    assert metrics.detections == 40  # two boxes an image, each a candidate for both classes


@pytest.mark.parametrize(
    "shares",
    [
        [list(range(0, 10, 2)), list(range(1, 10, 2))],
        [[9, 3, 5], [], [0, 1, 2, 4], [8, 7, 6]],
    ],
    ids=["2 ranks", "4 ranks, one idle, shuffled"],
)
def test_the_metrics_depend_on_neither_ranks_nor_order(shares: list[list[int]]) -> None:
    one_rank = metrics_to_json(evaluated([list(range(10))]))
    assert metrics_to_json(evaluated(shares, batch=2)) == one_rank


def test_an_image_that_no_rank_evaluated_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"1 images of the truth were not evaluated \(ids \[91\]"):
        evaluated([list(range(9))])


def test_an_image_that_two_ranks_evaluated_is_an_error() -> None:
    nothing = (SCENES[0][1].boxes[:0], np.zeros(0), np.zeros(0, dtype=int))
    once = [Detections(image.image_id, *nothing) for image in TRUTH.images]
    with pytest.raises(ValueError, match="2 images were evaluated more than once"):
        merge([once, once[3:5]], TRUTH)


def test_an_image_of_another_data_set_is_an_error() -> None:
    stray = Detections(5, *(SCENES[0][1].boxes[:0], np.zeros(0), np.zeros(0, dtype=int)))
    with pytest.raises(ValueError, match="1 evaluated images are not in it"):
        merge([[stray]], TRUTH)


def test_every_module_gets_its_own_mode_back() -> None:
    model = BrightSquareFinder()
    evaluate(model, batches(list(range(10))), TRUTH, EvaluationSection(), CPU)
    assert model.training
    assert not model.norm.training


def test_the_mode_comes_back_after_an_error_too() -> None:
    model = BrightSquareFinder()
    with pytest.raises(ValueError, match="not evaluated"):
        evaluate(model, [], TRUTH, EvaluationSection(), CPU)
    assert model.training


def test_progress_is_reported_in_images() -> None:
    counts: list[int] = []
    evaluate(
        BrightSquareFinder(),
        batches(list(range(10)), 4),
        TRUTH,
        EvaluationSection(),
        CPU,
        advance=counts.append,
    )
    assert counts == [4, 4, 2]


GATHER = """
import sys
import numpy as np
import torch.distributed as dist
from yolo.evaluation.detections import Detections
from yolo.evaluation.evaluator import ProcessGroup

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
mine = [
    Detections(n, np.full((n, 4), n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int64))
    for n in range(rank, 5, 2)
]
parts = ProcessGroup().gather(mine, to=0)
if rank:
    assert parts is None
else:
    print([[(found.image_id, found.boxes.sum()) for found in part] for part in parts])
dist.destroy_process_group()
"""


def test_two_processes_gather_over_gloo(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", GATHER, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    expected = [[(n, np.float32(4 * n * n)) for n in range(rank, 5, 2)] for rank in range(2)]
    assert outputs[0].strip() == str(expected)
