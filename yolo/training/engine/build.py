"""Builds the DeepSpeed engine and the synchronisation strategy: the one place that calls `deepspeed.initialize`."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import deepspeed.comm as dist
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from torch import nn

from yolo.communication.coalesced import broadcast_coalesced
from yolo.communication.optimizers.flat_optimizer import FlatOptimizer
from yolo.communication.optimizers.onebit_adam import OneBitAdam
from yolo.communication.optimizers.onebit_lamb import OneBitLamb
from yolo.communication.optimizers.zero_one_adam import ZeroOneAdam
from yolo.communication.reducers.bucketed import OverlappedReducer
from yolo.communication.reducers.local_sgd import LocalSGD
from yolo.communication.reducers.powersgd import PowerSGDReducer
from yolo.communication.sharding.batchnorm import SharedBatchNorm2d
from yolo.communication.sharding.columns import shard_columns
from yolo.communication.strategy import SyncStrategy
from yolo.errors import LaunchError
from yolo.recipe import deepspeed_config
from yolo.recipe.schema.optimizer import ONE_BIT
from yolo.recipe.schema.recipe import Recipe, ResolvedCommunication
from yolo.training.engine.cpu_adam import compile_cpu_adam
from yolo.training.engine.distributed import DistributedContext, batchnorm_group, check_nodes_agree

ParameterGroup = dict[str, Any]
ONE_BIT_OPTIMIZERS: dict[str, type[FlatOptimizer]] = {
    "OneBitAdam": OneBitAdam,
    "ZeroOneAdam": ZeroOneAdam,
    "OneBitLamb": OneBitLamb,
}
"""DeepSpeed dropped its own in 0.19.7. It accepts these as optimizer objects, and its JSON still names them."""


LONGEST_REASON = 400
"""Characters of DeepSpeed's error message: Pydantic's ends with a URL."""


def start_engine(model: nn.Module, recipe: Recipe, context: DistributedContext) -> Any:
    """DeepSpeed's engine around the model, with the optimizer of the recipe.

    Raises LaunchError if this machine cannot run the recipe.
    """
    set_batchnorm_momentum(model, recipe)
    check_nodes_agree(recipe, context)
    # Before initialize: DeepSpeed keeps references to the modules that it finds.
    if (group := batchnorm_group(recipe, context)) is not None:
        SharedBatchNorm2d.convert(model, group)
    shard_columns(model, context.columns)
    model.to(context.device)
    # DeepSpeed broadcasts parameters only; BatchNorm's statistics are buffers.
    broadcast_coalesced([*model.parameters(), *model.buffers()])
    groups = parameter_groups(model)
    config = deepspeed_config(recipe)
    optimizer = None
    if recipe.optimizer.type in ONE_BIT:
        optimizer = ONE_BIT_OPTIMIZERS[recipe.optimizer.type](
            groups, **config["optimizer"]["params"]
        )
    try:
        compile_cpu_adam(recipe)
        with _already_broadcast(model):
            engine, *_ = deepspeed.initialize(
                model=model,
                model_parameters=None if optimizer else groups,
                optimizer=optimizer,
                config=config,
                dist_init_required=False,
            )
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:LONGEST_REASON]
        raise LaunchError(
            f"DeepSpeed {deepspeed.__version__} refuses the configuration: {reason}"
        ) from error
    if optimizer is not None:
        optimizer.attach(engine, recipe.train.gradient_clipping)
        engine.clip_fp32_gradients = lambda: None  # the optimizer clips by itself
    elif recipe.zero.stage == 0:
        _guard_and_clip_without_a_collective(engine)
    elif recipe.precision.dtype == "fp16":
        _scale_the_loss_within(engine.optimizer)
    return engine


STRATEGIES: dict[str, Callable[[Any, ResolvedCommunication], SyncStrategy]] = {
    "deepspeed": lambda engine, settings: SyncStrategy(),
    "overlapped": lambda engine, settings: OverlappedReducer(
        engine, settings.bucket_size, settings.data_type
    ),
    "powersgd": lambda engine, settings: PowerSGDReducer(
        engine, settings.powersgd_rank, settings.powersgd_start_step
    ),
    "local_sgd": lambda engine, settings: LocalSGD(
        engine,
        settings.sync_every,
        settings.outer_lr,
        settings.outer_momentum,
        settings.data_type,
        settings.outer_one_bit,
    ),
}
"""Values of `communication.reducer`, and local SGD, which `communication.sync_every` chooses."""


def build_strategy(engine: Any, recipe: Recipe) -> SyncStrategy:
    """The synchronisation strategy that a recipe chooses, attached to the engine."""
    settings = recipe.communication
    if isinstance(engine.optimizer, SyncStrategy):  # a 1-bit optimizer synchronises momentum
        return engine.optimizer
    if dist.get_world_size() == 1:
        return SyncStrategy()
    return STRATEGIES["local_sgd" if settings.sync_every > 1 else settings.reducer](
        engine, settings
    )


def set_batchnorm_momentum(model: nn.Module, recipe: Recipe) -> None:
    """Set the momentum of BatchNorm's running statistics."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = recipe.model.batchnorm_momentum


@contextmanager
def _already_broadcast(model: nn.Module) -> Iterator[None]:
    """Skip DeepSpeed's own broadcast, which sends each parameter in a collective of its own.

    DeepSpeed 0.19.8 skips parameters with `ds_optim_param`, its mark for those that differ between ranks.
    """
    for parameter in model.parameters():
        parameter.ds_optim_param = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for parameter in model.parameters():
            del parameter.ds_optim_param  # type: ignore[attr-defined]


def _guard_and_clip_without_a_collective(engine: Any) -> None:
    """At stage 0: clip gradients without a collective, keep their norm, and skip a step whose norm is not finite.

    The gradients are the same on every rank, and so is their norm; DeepSpeed would average it in an all-reduce of 4 bytes,
    a full round trip, and then discard it. From stage 1 on DeepSpeed skips such a step itself; at stage 0 it would write
    the NaN into every weight. Under fp16, torch's loss scaler skips it.
    """

    def clip() -> None:
        parameters = list(engine.module.parameters())
        norm = nn.utils.clip_grad_norm_(parameters, engine.gradient_clipping())
        engine._global_grad_norm = norm
        if engine.torch_autocast_z0_gradscaler is None:
            # On a GPU this waits for backward, as stages 1 to 3 do. NaN compares as False.
            is_usable = bool(norm < engine.gradient_norm_limit)
            engine.optimizer.overflow = not is_usable  # DeepSpeed reads it after the step
            if not is_usable:
                for parameter in parameters:
                    parameter.grad = None  # torch's optimizers skip parameters without a gradient

    engine.gradient_norm_limit = math.inf
    engine.clip_fp32_gradients = clip


def limit_gradient_norm(engine: Any, limit: float) -> None:
    """Skip the next step if its gradient norm exceeds the limit; at stage 0 only, at other stages it is clipped and applied."""
    if hasattr(engine, "gradient_norm_limit"):
        engine.gradient_norm_limit = limit


def _scale_the_loss_within(optimizer: Any) -> None:
    """Let the sharded optimizer scale the loss itself, as it does for DeepSpeed's own fp16.

    Under autocast, DeepSpeed 0.19.8 uses a torch GradScaler, and too late: gradients are clipped while still scaled, so
    that each step has the length `gradient_clipping` divided by the scale; and a step that overflows returns before the
    scaler is updated, so that the scale never falls. The optimizer's own scaler is used at both places, and is saved in
    the checkpoint.
    """
    optimizer.torch_autocast_gradscaler = None
    optimizer.loss_scaler = DynamicLossScaler(
        init_scale=2.0**16,  # these values are GradScaler's, which stage 0 uses
        scale_window=2000,
        min_scale=1.0,
        delayed_shift=1,
        consecutive_hysteresis=False,
        raise_error_at_min_scale=False,  # the trainer's message is clearer
    )
    optimizer.dynamic_loss_scale = True


class SkippedStepDetector:
    """Detects steps that changed no weight, because their gradients were not finite."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.is_scale_falling = False
        """Whether fp16's loss scaler skipped the last step to find the largest scale that works.

        Not at a scale below 1, when the search has failed.
        """
        self._scale = loss_scale(engine)

    def was_step_applied(self) -> bool:
        """Whether the last step changed the weights; to be called once per step."""
        before, self._scale = self._scale, loss_scale(self.engine)
        # At stage 0 DeepSpeed does not know: torch's scaler skips the step, and lowers the scale.
        has_fallen = self._scale < before
        self.is_scale_falling = has_fallen and self._scale >= 1
        return bool(self.engine.was_step_applied()) and not has_fallen


def loss_scale(engine: Any) -> float:
    """The factor of the loss that protects fp16 gradients from underflow; 1 in the other precisions."""
    if engine.torch_autocast_z0_gradscaler is not None:
        return float(engine.torch_autocast_z0_gradscaler.get_scale())
    return float(getattr(engine.optimizer, "cur_scale", 1.0))


def parameter_groups(model: nn.Module) -> list[ParameterGroup]:
    """Biases, which have their own warm-up; convolution weights, which alone decay; BatchNorm weights.

    The weight decay comes from DeepSpeed's JSON.
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
