"""`communication`: how ranks exchange gradients."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from yolo.recipe.schema.fields import (
    Auto,
    Count,
    CountOrZero,
    Duration,
    Momentum,
    Rate,
    Section,
    setting,
    whole,
)

StartStep = Annotated[int, Field(ge=2, le=10**10), BeforeValidator(whole)]


class CommunicationSection(Section):
    """What goes over the network, when, and how long it may take."""

    reducer: Literal["deepspeed", "overlapped", "powersgd"] = setting("deepspeed")
    """Who averages gradients. `deepspeed`: as `zero` says, at stage 0 in one piece after backward. `overlapped`: at stage 0, bucket by bucket while backward goes on. `powersgd`: at stage 0, after backward, each gradient matrix as two of powersgd_rank columns."""
    data_type: Auto | Literal["fp32", "bf16", "fp16"] = setting("auto")
    """Number format of gradients on the wire; `auto` is fp32 at stage 0, and precision.dtype from stage 1 on (DeepSpeed allows no other there)."""
    bucket_size: Auto | Count = setting("auto", unit="elements")
    """Gradients that travel together under the reducer overlapped; `auto` makes at least 8 buckets of the network, of 25 MiB at most."""
    powersgd_rank: Count = setting(2)
    """Columns that a gradient matrix is approximated with."""
    powersgd_start_step: Auto | StartStep = setting("auto", unit="steps")
    """Steps of plain averaging before PowerSGD begins; `auto` is the end of the learning rate's warm-up, at least 10; 2 is the least that torch's PowerSGD takes."""
    sync_every: Count = setting(1, unit="steps")
    """Steps that each rank takes by itself between two exchanges of weights (local SGD, DiLoCo); 1 averages the gradients of each step. A round also ends with its epoch. In between no step waits for another rank: the loss is normalised by the rank's own boxes."""
    outer_lr: Rate = setting(0.7)
    """With sync_every above 1: by how much the ranks' mean movement is applied to the weights that they last had in common."""
    outer_momentum: Momentum = setting(0.9)
    """With sync_every above 1: Nesterov momentum of that outer step; 0 with outer_lr 1 is plain averaging of weights."""
    outer_one_bit: bool = setting(False)
    """With sync_every above 1: send the movement at one bit an element, with error feedback."""
    check_weights_every: CountOrZero = setting(0, unit="steps")
    """Compare a hash of the weights between ranks so often, and stop naming what differs; 0: only at the start and at each checkpoint. Where ranks step alone, at the next exchange; at zero.stage 3 ranks hold shards, and there is nothing to compare."""
    timeout_seconds: Duration = setting(600.0, unit="seconds")
    """A collective that takes longer ends the launch, and names the ranks that are missing and where each stood; `yolo train` then starts again (cluster.restarts)."""
