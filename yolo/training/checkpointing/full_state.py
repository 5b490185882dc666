"""The state of DeepSpeed's engine as full tensors by parameter name, under every ZeRO stage and number of ranks.

DeepSpeed's own checkpoints (0.19.8) fit one stage and one number of ranks: stages 0 and 1 do not read each other's, and
its universal checkpoint, made from one by a separate program, knows no stage 0 and leaves BatchNorm's running statistics
at 0 and 1. Its `safe_get_full_*` and `safe_set_full_*` functions need a collective per parameter and moment, and know no
stage 0 either. Full tensors have no such limits: each rank takes its part, and a YOLOv5 fits on the main rank.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import deepspeed.comm as dist
import torch

from yolo.training.engine.zero_shards import gather_full, local_shard, shard


@dataclass(frozen=True, slots=True)
class Counters:
    """Step counters of an optimizer: `step`, and each group's own counters by the group's name."""

    step: int | None
    groups: dict[str, dict[str, int | None]]


@dataclass(frozen=True, slots=True)
class Fragment:
    """Contiguous elements of a parameter that this rank's optimizer updates, and their place in its state."""

    name: str
    start: int
    """Index in the flattened parameter."""
    owner: torch.Tensor
    """The tensor that the optimizer has as its parameter; its state has the same shape."""
    offset: int
    size: int

    def of_full(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(-1)[self.start : self.start + self.size]

    def of_owner(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(-1)[self.offset : self.offset + self.size]


class FullState:
    """Reads and replaces an engine's weights, optimizer state and loss scale."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.named = dict(engine.module.named_parameters())
        self.stage: int = engine.zero_optimization_stage()
        zero = engine.optimizer
        self.optimizer: torch.optim.Optimizer = zero.optimizer if self.stage else zero
        """torch's own, or one of its kind; ZeRO passes it flat vectors instead of the parameters."""

    # --- weights ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def weights(self) -> dict[str, torch.Tensor]:
        """Full parameters and buffers by name; collective under stage 3. BatchNorm's statistics are this rank's."""
        parameters = list(self.named.values())
        full = gather_full(parameters, [local_shard(parameter) for parameter in parameters])
        buffers = {name: buffer.detach() for name, buffer in self.engine.module.named_buffers()}
        return dict(zip(self.named, full, strict=True)) | buffers

    @torch.no_grad()
    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace parameters and buffers, including ZeRO's own copies.

        Raises ValueError, before anything is replaced, if they are not this network's.
        """
        shapes = {name: _shape(parameter) for name, parameter in self.named.items()}
        shapes |= {name: buffer.shape for name, buffer in self.engine.module.named_buffers()}
        _check_names_and_shapes(tensors, shapes)
        for name, parameter in self.named.items():
            full = tensors[name].to(parameter.device)
            local_shard(parameter).copy_(shard(parameter, full))
            if hasattr(parameter, "ds_tensor") and parameter.numel() == parameter.ds_numel:
                parameter.data.copy_(full)  # small ones stay in full on every rank
        for name, buffer in self.engine.module.named_buffers():
            buffer.copy_(tensors[name])
        if self.stage:
            for fragment in self._fragments():
                fragment.of_owner(fragment.owner.detach()).copy_(
                    fragment.of_full(tensors[fragment.name])
                )

    # --- the optimizer ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def moments(self) -> dict[str, torch.Tensor]:
        """Full `<kind>/<parameter>` tensors, such as exp_avg/model.0.conv.weight; collective from stage 1 on.

        Valid on the main rank only. None before the first step.
        """
        fragments = list(self._fragments())
        kinds = self._kinds(fragments)
        if not self.stage:
            return {
                f"{kind}/{fragment.name}": self.optimizer.state[fragment.owner][kind]
                for kind in kinds
                for fragment in fragments
            }
        sizes = [_shape(parameter).numel() for parameter in self.named.values()]
        starts = dict(zip(self.named, torch.tensor([0, *sizes]).cumsum(0).tolist(), strict=False))
        moments: dict[str, torch.Tensor] = {}
        for kind in kinds:
            flat = torch.zeros(sum(sizes), device=self.engine.device)
            for fragment in fragments:
                start = starts[fragment.name] + fragment.start
                mine = fragment.of_owner(self.optimizer.state[fragment.owner][kind])
                flat[start : start + fragment.size].copy_(mine)
            dist.reduce(flat, 0)  # each element belongs to one rank
            for (name, parameter), part in zip(self.named.items(), flat.split(sizes), strict=True):
                moments[f"{kind}/{name}"] = part.view(_shape(parameter))
        return moments

    @property
    def counters(self) -> Counters:
        """The optimizer's step counters."""
        steps = [
            state["step"] for state in self.optimizer.state.values() if state and "step" in state
        ]
        groups = {
            group["name"]: {key: value for key, value in group.items() if _is_count(value)}
            for group in self.optimizer.param_groups
        }
        return Counters(int(max(steps)) if steps else None, groups)

    @torch.no_grad()
    def load_moments(self, moments: Mapping[str, torch.Tensor], counters: Counters) -> None:
        """Replace the optimizer's state by what `moments` and `counters` returned, under any stage.

        Raises ValueError, before anything is replaced, if they do not match this network's parameters.
        """
        kinds = sorted({key.partition("/")[0] for key in moments})
        named = self.named.items()
        _check_names_and_shapes(
            moments, {f"{kind}/{name}": _shape(each) for kind in kinds for name, each in named}
        )
        for group in self.optimizer.param_groups:
            group.update(counters.groups[group["name"]])
        fragments = list(self._fragments())
        step = counters.step
        self.optimizer.state.clear()
        for owner in {id(fragment.owner): fragment.owner for fragment in fragments}.values():
            if kinds:
                self.optimizer.state[owner] = {kind: torch.zeros_like(owner) for kind in kinds}
            if step is not None:
                self.optimizer.state[owner]["step"] = self._step(step)
        for fragment in fragments:
            for kind in kinds:
                target = fragment.of_owner(self.optimizer.state[fragment.owner][kind])
                target.copy_(fragment.of_full(moments[f"{kind}/{fragment.name}"]))
        if not self.stage:
            # This package's optimizers keep more state than torch's, and restore it there.
            self.optimizer.load_state_dict(self.optimizer.state_dict())

    def _kinds(self, fragments: list[Fragment]) -> list[str]:
        if not fragments:
            return []
        owner = fragments[0].owner
        state = self.optimizer.state.get(owner, {})
        return sorted(
            kind
            for kind, value in state.items()
            if isinstance(value, torch.Tensor) and value.shape == owner.shape
        )

    def _step(self, step: int) -> torch.Tensor | int:
        is_of_torch = type(self.optimizer).__module__.startswith("torch.")
        return torch.tensor(float(step)) if is_of_torch else step

    # --- the loss scale -----------------------------------------------------------------------------------------

    @property
    def scaler(self) -> dict[str, Any]:
        """fp16's loss scaler: torch's at stage 0, DeepSpeed's from stage 1 on; empty in the other precisions."""
        if (scaler := self.engine.torch_autocast_z0_gradscaler) is not None:
            return dict(scaler.state_dict())
        if getattr(self.engine.optimizer, "dynamic_loss_scale", False):
            scaler = self.engine.optimizer.loss_scaler
            return {"scale": scaler.cur_scale, "_growth_tracker": _growth_tracker(scaler)}
        return {}

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """Restore the loss scale that `scaler` returned, under any stage."""
        if not state:
            return
        if (scaler := self.engine.torch_autocast_z0_gradscaler) is not None:
            scaler.load_state_dict({**scaler.state_dict(), **state})
        elif getattr(self.engine.optimizer, "dynamic_loss_scale", False):
            scaler = self.engine.optimizer.loss_scaler
            scaler.cur_scale = state["scale"]
            scaler.cur_iter = 0
            scaler.last_overflow_iter = -1 - state["_growth_tracker"]

    # --- ownership ----------------------------------------------------------------------------------------------

    def _fragments(self) -> Iterator[Fragment]:
        for name, parameter in self.named.items():
            if self.stage == 0:
                yield Fragment(name, 0, parameter, 0, parameter.numel())
            elif self.stage == 3:
                yield from self._stage_3_fragment(name, parameter)
            elif (mapping := parameter._hp_mapping) is not None:
                owner = self.engine.optimizer.single_partition_of_fp32_groups[
                    mapping.param_group_index
                ]
                mine, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                yield Fragment(name, mine.start, owner, there.start, mine.numel)

    def _stage_3_fragment(self, name: str, parameter: Any) -> Iterator[Fragment]:
        zero = self.engine.optimizer
        group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
        start = dist.get_rank() * size
        real = min(size, parameter.ds_numel - start)  # the last shard is padded
        if real > 0:
            yield Fragment(name, start, zero.fp32_partitioned_groups_flat[group], offset, real)


def _shape(parameter: Any) -> torch.Size:
    """The full parameter's shape, of which stage 3 keeps a flat shard."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _check_names_and_shapes(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]
) -> None:
    others = sorted(tensors.keys() ^ shapes.keys())
    others += [
        name for name, shape in shapes.items() if name in tensors and tensors[name].shape != shape
    ]
    if others:
        raise ValueError(f"{others[0]} is missing, or is none of this network's tensors")


def _is_count(value: object) -> bool:
    """None counts too: a counter that has not started."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _growth_tracker(scaler: Any) -> int:
    """Steps since the last overflow or growth, as torch's scaler counts them."""
    return int((scaler.cur_iter - scaler.last_overflow_iter - 1) % scaler.scale_window)
