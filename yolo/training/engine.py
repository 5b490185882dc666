"""The one place that calls `deepspeed.initialize`."""

from typing import Any

import deepspeed
import torch
from torch import nn

from yolo.communication.flat import broadcast_from_first
from yolo.errors import LaunchError
from yolo.recipe import deepspeed_config
from yolo.recipe.schema import Recipe
from yolo.training.ranks import Ranks

ParameterGroup = dict[str, Any]


def start_engine(model: nn.Module, recipe: Recipe, ranks: Ranks) -> Any:
    """DeepSpeed's engine around the model, with the optimizer and the exchange that the recipe asks for.

    Raises LaunchError where the machine at hand cannot run the recipe.
    """
    if recipe.model.sync_batchnorm:
        # Before initialize: DeepSpeed holds on to the modules that it finds there.
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(ranks.device)
    # DeepSpeed broadcasts parameters only; BatchNorm's statistics are buffers.
    broadcast_from_first(list(model.buffers()))
    try:
        engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=parameter_groups(model),
            config=deepspeed_config(recipe),
            dist_init_required=False,
        )
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise LaunchError(
            f"DeepSpeed {deepspeed.__version__} refuses the configuration: {error}"
        ) from error
    if recipe.zero.stage == 0:
        _clip_without_a_collective(engine)
    return engine


def _clip_without_a_collective(engine: Any) -> None:
    """Clip stage 0's gradients where they are, and keep their norm.

    They are the same on every rank, and so is their norm; DeepSpeed would average it in an all-reduce of 4 bytes, a
    whole round trip, and then forget it.
    """

    def clip() -> None:
        norm = nn.utils.clip_grad_norm_(engine.module.parameters(), engine.gradient_clipping())
        engine._global_grad_norm = norm

    engine.clip_fp32_gradients = clip


def parameter_groups(model: nn.Module) -> list[ParameterGroup]:
    """Biases, convolution weights and BatchNorm weights: only the second decays, and the first has its own warm-up.

    The decaying group takes its weight decay from DeepSpeed's JSON.
    """
    biases: list[nn.Parameter] = []
    weights: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                norms.append(parameter)
            else:
                weights.append(parameter)
    return [
        {"name": "biases", "params": biases, "weight_decay": 0.0},
        {"name": "weights", "params": weights},
        {"name": "norms", "params": norms, "weight_decay": 0.0},
    ]


def to_network(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images (B, 3, H, W) uint8 as floats in [0, 1] on the device, channels last, which convolutions prefer."""
    moved = images.to(device, non_blocking=True).to(memory_format=torch.channels_last)
    return moved.float().div_(255.0)
