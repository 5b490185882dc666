"""Write checkpoints like published ones, of random weights, and what their networks make of random images.

In a process of its own, with this folder on the path: no test imports `models`.
"""

import datetime
import pathlib
import sys
from typing import Any

import numpy as np
import torch
from models.yolo import DetectionModel
from torch import nn

CLASSES = 3
TEXTS = [f"thing {number}" for number in range(CLASSES)]


def network(variant: str, names: object, act: type = nn.SiLU) -> DetectionModel:
    model = DetectionModel(variant, CLASSES, names, act)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.normal_(module.bias, 0, 0.1)
            module.num_batches_tracked += 7
    return model.half()


def save(path: pathlib.Path, model: Any, ema: Any, pixels: int | None = None) -> None:
    checkpoint = {
        "epoch": 3,
        "best_fitness": np.array([0.25])[0],
        "model": model,
        "ema": ema,
        "updates": 12,
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(3)}}, "param_groups": [{}]},
        "opt": {"imgsz": pixels, "save_dir": pathlib.PosixPath("runs/train/exp")},
        "git": {"remote": None},
        "date": datetime.datetime(2026, 8, 21, tzinfo=datetime.UTC),
    }
    torch.save(checkpoint, path)


def reference(path: pathlib.Path, model: DetectionModel) -> None:
    """What an import of the checkpoint has to equal."""
    images = torch.rand(2, 3, 128, 192)
    with torch.no_grad():
        predictions = model.float().eval()(images)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez(path, images=images, predictions=predictions, **arrays)


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    torch.manual_seed(0)
    for variant, names, is_ema in (
        ("n", dict(enumerate(TEXTS)), True),
        ("m", TEXTS, False),
        ("n6", dict(enumerate(TEXTS)), True),
    ):
        model = network(variant, names)
        other = network(variant, names) if is_ema else None
        pixels = 500 if variant == "m" else None
        save(folder / f"{variant}.pt", *((other, model) if is_ema else (model, None)), pixels)
        reference(folder / f"{variant}.npz", model)

        if variant == "n":
            torch.save(model, folder / "alone.pt")
            model.model[-1].anchor_grid = [torch.rand(1, 3, 1, 1, 2).expand(1, 3, 80, 80, 2)]
            save(folder / "expanded.pt", model, None)

    save(folder / "relu.pt", network("n", TEXTS, nn.ReLU), None)
    save(folder / "too_few_names.pt", network("n", TEXTS[1:]), None)
    for name in ("eps", "shortcut", "fused", "partly_fused", "wider"):
        changed = network("n", TEXTS)
        if name == "eps":
            changed.model[3].bn.eps = 1e-5
        elif name == "shortcut":
            changed.model[13].m[0].add = True
        elif name == "wider":
            changed.model[7].conv = nn.Conv2d(128, 300, 3, 2, 1, bias=False)
        else:
            fused = [module for module in changed.modules() if hasattr(module, "bn")]
            for module in fused if name == "fused" else fused[-1:]:
                module.conv.bias = nn.Parameter(module.bn.bias)
                del module.bn
        save(folder / f"{name}.pt", changed, None)
    assert "yolo" not in sys.modules, "the reference must not know our network"


if __name__ == "__main__":
    main()
