"""Some steps on different images per rank; then the differences of the ranks' weights and BatchNorm statistics.

The average over the steps is also computed by hand, from the full weights after each step.
"""

from pathlib import Path

import torch

from tests.workers.several import report_each
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.training.engine.build import start_engine
from yolo.training.engine.distributed import all_gather_object, init_distributed
from yolo.training.engine.ema import ModelEMA

SETTINGS = ["train.global_batch=4", "model.image_size=64", "train.ema_ramp_steps=2"]
STEPS = 4


def average_some_steps(settings: list[str], _: Path) -> dict[str, float]:
    recipe = prepare("recipes/demo.yaml", [*SETTINGS, *settings], 2).resolved.recipe
    ranks = init_distributed(recipe)
    torch.manual_seed(0)
    engine = start_engine(YOLOv5("n", 3), recipe, ranks)
    plain = YOLOv5("n", 3).requires_grad_(False)
    newest = ModelEMA(engine.module, recipe.train.model_copy(update={"ema": False}))
    average = ModelEMA(engine.module, recipe.train)
    newest.write_into(plain)
    by_hand = parameters(plain)
    generator = torch.Generator().manual_seed(ranks.rank)
    for _ in range(STEPS):
        images = torch.rand(2, 3, 64, 64, generator=generator) * (1 + ranks.rank)
        loss = sum(output.float().square().mean() for output in engine(images))
        engine.backward(loss)
        engine.step()
        average.update()
        newest.update()
        newest.write_into(plain)
        by_hand += (1 - average.decay) * (parameters(plain) - by_hand)
    moved = float((parameters(plain) - by_hand).norm())
    images = torch.rand(2, 3, 64, 64, generator=generator) * (1 + ranks.rank)
    engine(images)  # statistics move with every forward pass, each rank's by its own images
    drift = apart(statistics(engine.module), ranks)
    trained = statistics(engine.module)
    average.write_into(plain)
    return {
        "moved": moved,
        "off_by_hand": float((parameters(plain) - by_hand).norm()),
        "drift": drift,
        "weights_apart": apart(parameters(plain), ranks),
        "statistics_apart": apart(statistics(plain), ranks),
        "trained_statistics_moved": float((statistics(engine.module) - trained).abs().max()),
    }


def parameters(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


def statistics(model: torch.nn.Module) -> torch.Tensor:
    named = model.named_buffers()
    return torch.cat([b.reshape(-1) for name, b in named if "running" in name]).clone()


def apart(mine: torch.Tensor, ranks) -> float:
    """The largest difference between two ranks."""
    first, second = all_gather_object(ranks, mine)
    return float((first - second).abs().max())


report_each(average_some_steps)
