"""The one place that calls `deepspeed.initialize`, and that chooses how ranks exchange what they computed."""

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
from yolo.communication.strategy import OptimizerExchange, SyncStrategy
from yolo.errors import LaunchError
from yolo.recipe import deepspeed_config
from yolo.recipe.schema.optimizer import ONE_BIT
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.cpu_adam import compile_cpu_adam
from yolo.training.engine.distributed import DistributedContext

ParameterGroup = dict[str, Any]
ONE_BIT_OPTIMIZERS: dict[str, type[FlatOptimizer]] = {
    "OneBitAdam": OneBitAdam,
    "ZeroOneAdam": ZeroOneAdam,
    "OneBitLamb": OneBitLamb,
}
"""DeepSpeed dropped its own in 0.19.7; it takes ours as an optimizer object, and its JSON names them as before."""


LONGEST_REASON = 400
"""Characters of what DeepSpeed says: Pydantic ends with an address."""


def start_engine(
    model: nn.Module,
    recipe: Recipe,
    ranks: DistributedContext,
    tell: Callable[[str], None] = lambda _: None,
) -> Any:
    """DeepSpeed's engine around the model, with the optimizer and the exchange that the recipe asks for.

    `tell` hears of what takes long.

    Raises LaunchError where the machine at hand cannot run the recipe.
    """
    set_batchnorm_momentum(model, recipe)
    if recipe.model.sync_batchnorm:
        # Before initialize: DeepSpeed holds on to the modules that it finds there.
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(ranks.device)
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
        compile_cpu_adam(recipe, tell)
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
        engine.clip_fp32_gradients = lambda: None  # the optimizer clips what it exchanges
    elif recipe.zero.stage == 0:
        _guard_and_clip_without_a_collective(engine)
    elif recipe.precision.dtype == "fp16":
        _scale_the_loss_within(engine.optimizer)
    return engine


def start_exchange(engine: Any, recipe: Recipe) -> SyncStrategy:
    """The strategy that a recipe chooses, at work in the engine."""
    communication = recipe.communication
    if recipe.optimizer.type in ONE_BIT:
        return OptimizerExchange(engine.optimizer)
    if dist.get_world_size() == 1:
        return SyncStrategy()
    if communication.sync_every > 1:
        return LocalSGD(
            engine,
            communication.sync_every,
            communication.outer_lr,
            communication.outer_momentum,
            communication.data_type,
            communication.outer_one_bit,
            engine.optimizer.state_dict,
            engine.optimizer.load_state_dict,
        )
    if communication.reducer == "overlapped":
        return OverlappedReducer(engine, communication.bucket_size, communication.data_type)
    if communication.reducer == "powersgd":
        start = communication.powersgd_start_step
        return PowerSGDReducer(
            engine, communication.powersgd_rank, None if start == "auto" else start
        )
    return SyncStrategy()


def set_batchnorm_momentum(model: nn.Module, recipe: Recipe) -> None:
    """Let BatchNorm's running statistics move as fast as the recipe says."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = recipe.model.batchnorm_momentum


@contextmanager
def _already_broadcast(model: nn.Module) -> Iterator[None]:
    """Spare DeepSpeed's own broadcast, which sends each parameter by itself.

    DeepSpeed 0.19.8 passes over parameters that carry `ds_optim_param`, its mark for those that differ between ranks.
    """
    for parameter in model.parameters():
        parameter.ds_optim_param = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for parameter in model.parameters():
            del parameter.ds_optim_param  # type: ignore[attr-defined]


def _guard_and_clip_without_a_collective(engine: Any) -> None:
    """Clip stage 0's gradients where they are, keep their norm, and leave out a step whose norm is not finite.

    They are the same on every rank, and so is their norm; DeepSpeed would average it in an all-reduce of 4 bytes, a
    whole round trip, and then forget it. From stage 1 on DeepSpeed leaves such a step out itself; at stage 0 it would
    put the NaN into every weight. Under fp16 torch's loss scaler leaves it out.
    """

    def clip() -> None:
        parameters = list(engine.module.parameters())
        norm = nn.utils.clip_grad_norm_(parameters, engine.gradient_clipping())
        engine._global_grad_norm = norm
        if engine.torch_autocast_z0_gradscaler is None:
            # On a GPU this waits for backward, as stages 1 to 3 do. A NaN is not below anything.
            is_usable = bool(norm < engine.gradient_norm_limit)
            engine.optimizer.overflow = not is_usable  # DeepSpeed asks for it after the step
            if not is_usable:
                for parameter in parameters:
                    parameter.grad = None  # torch's optimizers pass over what has no gradient

    engine.gradient_norm_limit = math.inf
    engine.clip_fp32_gradients = clip


def limit_gradient_norm(engine: Any, limit: float) -> None:
    """Leave the next step out where its gradient is longer; at stage 0 only, elsewhere it is clipped and taken."""
    if hasattr(engine, "gradient_norm_limit"):
        engine.gradient_norm_limit = limit


def _scale_the_loss_within(optimizer: Any) -> None:
    """Let the sharded optimizer scale the loss itself, as it does for DeepSpeed's own fp16.

    Under autocast DeepSpeed 0.19.8 gives that to a torch GradScaler that it asks too late: gradients are clipped while
    still scaled, so that each step has the length `gradient_clipping`, divided by the scale, and a step that overflows
    returns before the scaler hears of it, so that the scale never falls. The optimizer's own scaler is asked at both
    places, and is saved in the checkpoint.
    """
    optimizer.torch_autocast_gradscaler = None
    optimizer.loss_scaler = DynamicLossScaler(
        init_scale=2.0**16,  # these are GradScaler's, which stage 0 uses
        scale_window=2000,
        min_scale=1.0,
        delayed_shift=1,
        consecutive_hysteresis=False,
        raise_error_at_min_scale=False,  # the loop says it better
    )
    optimizer.dynamic_loss_scale = True


class SkippedStepDetector:
    """Tells whether steps were taken: one whose gradients overflow changes no weight, and the loss scale falls."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.is_scale_falling = False
        """Whether the last step was left out by fp16's loss scaler, which looks for the largest scale that works.

        Below 1 there is nothing left to look for.
        """
        self._scale = loss_scale(engine)

    def was_step_applied(self) -> bool:
        """Whether the step just made changed the weights; to be asked once a step."""
        before, self._scale = self._scale, loss_scale(self.engine)
        # At stage 0 DeepSpeed does not know: there torch's scaler leaves the step out, and shows it by a lower scale.
        has_fallen = self._scale < before
        self.is_scale_falling = has_fallen and self._scale >= 1
        return bool(self.engine.was_step_applied()) and not has_fallen


def loss_scale(engine: Any) -> float:
    """What the loss is multiplied with so that no fp16 gradient is lost to underflow; 1 in the other precisions."""
    if engine.torch_autocast_z0_gradscaler is not None:
        return float(engine.torch_autocast_z0_gradscaler.get_scale())
    return float(getattr(engine.optimizer, "cur_scale", 1.0))


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
