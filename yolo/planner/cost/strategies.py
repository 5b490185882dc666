"""Each strategy's fidelity and costs: its phases and their collectives, its own computing, its buffers.

The collectives and their sizes are those that DeepSpeed 0.19.8 and this repo's strategies issue; tests compare them with
a recording of the real ones.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import total_ordering
from operator import attrgetter
from typing import Any, Literal

from yolo.planner.cost.compute import LocalCost
from yolo.planner.cost.memory import FP32, persistent_bytes
from yolo.planner.cost.message_sizes import (
    PlanContext,
    dense_events,
    low_rank_events,
    one_bit_elements,
    one_bit_events,
)
from yolo.planner.cost.model_stats import Network
from yolo.planner.cost.step_events import (
    Phase,
    overlapped_events,
    periodic,
    stage_1_and_2_events,
    stage_3_events,
    synced,
)
from yolo.planner.cost.timeline import CommEvent, Event
from yolo.recipe.schema.optimizer import (
    ONE_BIT,
    OneBitAdamSection,
    OneBitLambSection,
    ZeroOneAdamSection,
)
from yolo.recipe.schema.recipe import Recipe

Phases = Callable[[PlanContext, float], list[Phase]]
LATEST_FREEZE = 0.25
"""Share of the run after which an automatic freeze_step freezes at the latest: the plan assumes the latest."""


@total_ordering
class GradientFidelity(Enum):
    """How far a strategy is from averaging full gradients in each step, the closest first.

    The values are those of `--allow`, and of `learns` in JSON files.
    """

    SAME = "same"
    """The same gradients except for the order of sums."""
    ROUNDED = "rounded"
    """Gradients or arithmetic in 16 bits."""
    COMPRESSED = "compressed"
    """What compression drops is sent later."""
    LOCAL = "local"
    """Ranks take local steps."""
    OTHER_OPTIMIZER = "other-optimizer"
    """Another optimizer, whose learning rate has to be tuned again."""

    def __lt__(self, other: "GradientFidelity") -> bool:
        order = list(GradientFidelity)
        return order.index(self) < order.index(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyCost(LocalCost):
    """What a strategy adds to forward, backward and update. A value of communication.reducer is its own key.

    With a 16-bit communication.data_type, the entry `<key>.bf16` is used if there is one.
    """

    phases: Phases
    """The run's phases, given the share of its steps in which the learning rate warms up."""
    buffers: Callable[[Recipe, Network, int], float]
    """Bytes of buckets, flattened gradients and error feedback, given the number of ranks."""
    period: int = 1
    """Steps after which the traffic of a reducer repeats."""
    fidelity: GradientFidelity = GradientFidelity.SAME
    """For reducers; those of optimizers depend on the recipe's own (`candidates`)."""
    learning_settings: tuple[str, ...] = ()
    """What decides its accuracy beside communication.data_type: a measured AP holds for the same values only."""

    def phases_of(self, context: PlanContext, warmup_share: float) -> list[Phase]:
        """A run's phases in order; it stays in the last. One rank sends nothing."""
        return (
            [synced(context, 1.0, ())] if context.ranks == 1 else self.phases(context, warmup_share)
        )

    def learning_settings_of(self, recipe: Recipe) -> dict[str, Any]:
        """What decides its accuracy, by key."""
        keys = ("communication.data_type", *self.learning_settings)
        return {key: attrgetter(key)(recipe) for key in keys}

    @property
    def averages_gradients(self) -> bool:
        """Whether each step takes the mean gradient, in the number format of the wire."""
        return self.fidelity is GradientFidelity.SAME and not self.learning_settings

    def buffers_of(self, recipe: Recipe, network: Network, ranks: int) -> float:
        """Bytes of its buffers; one rank has none."""
        return self.buffers(recipe, network, ranks) if ranks > 1 else 0.0


def strategy_of(recipe: Recipe) -> StrategyCost:
    """The strategy that takes effect, even if several are set."""
    communication = recipe.communication
    key: str = communication.reducer
    if isinstance(recipe.optimizer, ZeroOneAdamSection) and recipe.optimizer.local_step_clipper > 1:
        key = "ZeroOneAdam.local"
    elif recipe.optimizer.type in ONE_BIT:
        key = recipe.optimizer.type
    elif communication.sync_every > 1:
        key = "local_steps.one_bit" if communication.outer_one_bit else "local_steps"
    else:
        if key == "deepspeed":
            key = f"stage{recipe.zero.stage}"
        if communication.data_type != "fp32" and f"{key}.bf16" in STRATEGY_COSTS:
            key = f"{key}.bf16"
    return STRATEGY_COSTS[key]


# --- phases -----------------------------------------------------------------------------------------------------


def _share(context: PlanContext, requested: int | Literal["auto"], automatic: float) -> float:
    return automatic if requested == "auto" else min(1.0, requested / max(1, context.steps))


def _dense_first(context: PlanContext, share: float, compressed: list[CommEvent]) -> list[Phase]:
    dense = synced(context, share, dense_events(context))
    return [dense, synced(context, 1 - share, compressed)]


def _frozen_phases(context: PlanContext, _: float) -> list[Phase]:
    """1-bit Adam and LAMB: full gradients until the second moment is frozen."""
    optimizer = context.recipe.optimizer
    assert isinstance(optimizer, OneBitAdamSection | OneBitLambSection)
    share = _share(context, optimizer.freeze_step, LATEST_FREEZE)
    return _dense_first(context, share, one_bit_events(context))


def _zero_one_phases(context: PlanContext, warmup_share: float) -> list[Phase]:
    """1 bit each step, then at intervals that double up to the longest, then at the longest."""
    optimizer, comm_events = context.recipe.optimizer, one_bit_events(context)
    assert isinstance(optimizer, ZeroOneAdamSection)
    longest = optimizer.local_step_clipper
    if longest == 1:
        return [synced(context, 1.0, comm_events)]
    frozen = _share(context, optimizer.var_freeze_step, warmup_share)
    later = (1 - frozen) / 2
    return [
        synced(context, frozen, comm_events),
        periodic(context, later, comm_events, max(1, longest // 2)),
        periodic(context, later, comm_events, longest),
    ]


def _local_phases(context: PlanContext, _: float) -> list[Phase]:
    communication = context.recipe.communication
    sync = one_bit_events if communication.outer_one_bit else dense_events
    return [periodic(context, 1.0, sync(context), communication.sync_every)]


def _powersgd_phases(context: PlanContext, warmup_share: float) -> list[Phase]:
    share = _share(context, context.recipe.communication.powersgd_start_step, warmup_share)
    return _dense_first(context, share, low_rank_events(context))


def _alike(events: Callable[[PlanContext], Iterable[Event]]) -> Phases:
    """One phase, each of whose steps has these events."""
    return lambda context, _: [Phase(1.0, tuple(events(context)))]


# --- buffers ----------------------------------------------------------------------------------------------------


def _wire_bytes(recipe: Recipe, network: Network, ranks: int) -> float:
    """A 16-bit copy of the gradients, if they travel in 16 bits."""
    return 0.0 if recipe.communication.data_type == "fp32" else network.fp32_bytes / 2


def _one_bit_buffers(recipe: Recipe, network: Network, ranks: int) -> float:
    """The flat gradient, both error feedbacks, what is unpacked, and a sign per element of the sketch.

    0/1 Adam also keeps the weights of the last sync.
    """
    anchor = network.fp32_bytes if recipe.optimizer.type == "ZeroOneAdam" else 0.0
    return one_bit_elements(network, ranks) * (FP32 * (3 + 1 / ranks) + 1) + anchor


def _local_buffers(recipe: Recipe, network: Network, ranks: int) -> float:
    """Anchor, velocity and movement, and what the sync needs."""
    full = network.fp32_bytes
    padded = float(FP32 * one_bit_elements(network, ranks))
    return 3.0 * full + (padded * (2 + 1 / ranks) if recipe.communication.outer_one_bit else full)


def _zero_buffers(recipe: Recipe, network: Network, _: int) -> float:
    """Buckets; at stage 3 also the gathered parameters."""
    zero = recipe.zero
    buckets = 2 if zero.overlap_comm is True and zero.contiguous_gradients else 1
    is_gathered = zero.stage == 3
    gathered = network.fp32_bytes - persistent_bytes(recipe, network) if is_gathered else 0.0
    return gathered + FP32 * min(zero.reduce_bucket_size, network.elements) * buckets


# --- what decides accuracy --------------------------------------------------------------------------------------


def _keys(section: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names)


# --- the table --------------------------------------------------------------------------------------------------

_STAGE_0 = StrategyCost(
    key="stage0",
    passes=4,
    phases=lambda context, _: [synced(context, 1.0, dense_events(context))],
    # DeepSpeed flattens all gradients for one all-reduce.
    buffers=lambda recipe, network, ranks: network.fp32_bytes + _wire_bytes(recipe, network, ranks),
)
_STAGE_1 = StrategyCost(
    key="stage1", passes=4, hooks=1, phases=_alike(stage_1_and_2_events), buffers=_zero_buffers
)
_OVERLAPPED = StrategyCost(  # its buckets hold the gradients themselves
    key="overlapped", passes=3, hooks=1, phases=_alike(overlapped_events), buffers=_wire_bytes
)
_ONE_BIT_ADAM = StrategyCost(
    key="OneBitAdam",
    passes=22,
    phases=_frozen_phases,
    buffers=_one_bit_buffers,
    learning_settings=_keys("optimizer", "freeze_step"),
)
_ZERO_ONE_ADAM = replace(
    _ONE_BIT_ADAM,
    key="ZeroOneAdam",
    phases=_zero_one_phases,
    learning_settings=_keys(
        *("optimizer", "var_freeze_step", "var_update_scaler"),
        *("local_step_scaler", "local_step_clipper"),
    ),
)
_LOCAL_STEPS = StrategyCost(
    key="local_steps",
    passes=10,
    phases=_local_phases,
    buffers=_local_buffers,
    learning_settings=_keys("communication", "sync_every", "outer_lr", "outer_momentum"),
)

STRATEGY_COSTS = {
    strategy.key: strategy
    for strategy in (
        _STAGE_0,
        replace(_STAGE_0, key="stage0.bf16", passes=5),
        _STAGE_1,
        replace(_STAGE_1, key="stage2"),
        replace(_STAGE_1, key="stage3", passes=6, hooks=4, phases=_alike(stage_3_events)),
        _OVERLAPPED,
        replace(_OVERLAPPED, key="overlapped.bf16", passes=5),
        StrategyCost(
            key="powersgd",
            passes=10,
            launches=40,  # two products, and orthogonalization column by column
            phases=_powersgd_phases,
            # The bucket, error feedback, the approximation.
            buffers=lambda recipe, network, ranks: 3 * network.fp32_bytes,
            fidelity=GradientFidelity.COMPRESSED,
            learning_settings=_keys("communication", "powersgd_rank", "powersgd_start_step"),
        ),
        _ONE_BIT_ADAM,
        replace(_ONE_BIT_ADAM, key="OneBitLamb", passes=28),
        _ZERO_ONE_ADAM,
        replace(_ZERO_ONE_ADAM, key="ZeroOneAdam.local", passes=10),
        _LOCAL_STEPS,
        replace(_LOCAL_STEPS, key="local_steps.one_bit", passes=24),
    )
}
DDP = LocalCost("ddp", passes=2, hooks=0)
"""torch's DistributedDataParallel, which no recipe names."""
