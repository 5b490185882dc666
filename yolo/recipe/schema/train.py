"""`train`: how long, in which batches, on which schedule."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from yolo.recipe.schema.fields import (
    HIGHEST_COUNT,
    Auto,
    Count,
    CountOrZero,
    DurationOrZero,
    Momentum,
    RateOrZero,
    Section,
    Share,
    refuse_bool,
    setting,
)

Weight = Annotated[
    float,
    Field(gt=0.0, le=HIGHEST_COUNT, allow_inf_nan=False),
    BeforeValidator(refuse_bool),
]
HIGHEST_CLIPPING = 1e6
Clipping = Annotated[
    float,
    Field(ge=0.0, le=HIGHEST_CLIPPING, allow_inf_nan=False),
    BeforeValidator(refuse_bool),
]


class TrainSection(Section):
    """The training run."""

    epochs: Count = setting(300, unit="epochs")
    """Passes over the training split."""
    global_batch: Count = setting(64, unit="images")
    """Images of one optimizer step, over all ranks and accumulation steps: what accuracy depends on."""
    base_batch: Count | None = setting(None, unit="images")
    """The global batch that learning rate, SGD's clipping, warm-up and the average of the weights are stated for: at another `global_batch` they are scaled by the optimizer's own rule, and `yolo config` shows how. None: they are taken as they stand."""
    micro_batch: Auto | Count = setting("auto", unit="images")
    """Images a rank computes at once; `auto` takes the largest that divides the rank's share and fits a 16 GB GPU."""
    gradient_accumulation_steps: Auto | Count = setting("auto", unit="micro batches")
    """Micro batches a rank adds up before a step; `auto` is global_batch / (micro_batch x world size)."""
    schedule: Literal["linear", "cosine"] = setting("linear")
    """How the learning rate falls from `optimizer.lr` to `final_lr_fraction` of it."""
    final_lr_fraction: Share = setting(0.01, unit="share of optimizer.lr")
    """Where the learning rate ends (the public YOLOv5's lrf)."""
    warmup_epochs: DurationOrZero = setting(3.0, unit="epochs")
    """Learning rates and momentum approach their values linearly over these."""
    warmup_min_steps: CountOrZero = setting(100, unit="optimizer steps")
    """Warm-up takes at least this many steps, but never more than half of the run."""
    warmup_momentum: Momentum = setting(0.8)
    """Momentum at the first step; SGD only."""
    warmup_bias_lr: Auto | RateOrZero = setting("auto")
    """Learning rate of the biases at the first step; `auto` is 0.1 for SGD and 0 for Adam's kind, whose steps do not shrink with the gradient."""
    gradient_clipping: Clipping = setting(10.0, unit="gradient norm")
    """Longer gradients are scaled down to this norm; 0 clips nothing. Always written out: DeepSpeed's own default is 1.0."""
    multi_scale: Share = setting(0.0, unit="share of model.image_size")
    """Each step's images are scaled by a random factor between 1 minus and 1 plus this, the same on all ranks, so that none waits for one with larger ones; the public YOLOv5's is 0.5."""
    ema: bool = setting(True)
    """Evaluate and keep an exponential moving average of the weights."""
    ema_decay: Momentum = setting(0.9999)
    """The average's decay in the long run."""
    ema_ramp_steps: Count = setting(2000, unit="optimizer steps")
    """The decay approaches its value as 1 - exp(-step / this)."""
    ema_steps_per_step: Weight = setting(1.0, unit="steps of the average")
    """Steps that the average counts for one of the optimizer: `base_batch` makes it the ratio of the batches, so that the average looks back over the same images."""
    seed: CountOrZero = setting(0)
    """The start of all randomness: weights, order of the data, augmentation."""
