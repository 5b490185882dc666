"""A run: how long and in which batches it trains, what happens to bad steps, and what it measures, saves and logs."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from yolo.recipe.schema.fields import (
    HIGHEST_COUNT,
    Auto,
    Count,
    CountOrZero,
    Duration,
    DurationOrZero,
    Momentum,
    OneLine,
    RateOrZero,
    Section,
    Share,
    refuse_bool,
    setting,
)

Weight = Annotated[float, Field(gt=0.0, le=HIGHEST_COUNT), BeforeValidator(refuse_bool)]
HIGHEST_CLIPPING = 1e6
Clipping = Annotated[float, Field(ge=0.0, le=HIGHEST_CLIPPING), BeforeValidator(refuse_bool)]
Score = Annotated[float, Field(ge=0.0, le=1000.0), BeforeValidator(refuse_bool)]
Factor = Annotated[float, Field(gt=0.0, le=1.0), BeforeValidator(refuse_bool)]


class TrainSection(Section):
    """The training run."""

    epochs: Count = setting(300, unit="epochs")
    """Passes over the training split."""
    global_batch: Count = setting(64, unit="images")
    """Images per optimizer step, over all ranks and accumulation steps: what accuracy depends on."""
    base_batch: Count | None = setting(None, unit="images")
    """The global batch for which learning rate, SGD's clipping, warm-up and the average of the weights are stated. With another `global_batch` they are scaled by the optimizer's own rule; `yolo config` shows how. null: no scaling."""
    micro_batch: Auto | Count = setting("auto", unit="images")
    """Images that a rank computes at once. `auto` is the largest that divides the rank's share and fits a 16 GB GPU."""
    gradient_accumulation_steps: Auto | Count = setting("auto", unit="micro batches")
    """Micro batches per rank and step. `auto` is global_batch / (micro_batch x world size)."""
    schedule: Literal["linear", "cosine"] = setting("linear")
    """How the learning rate falls from `optimizer.lr` to `final_lr_fraction` of it."""
    final_lr_fraction: Share = setting(0.01, unit="share of optimizer.lr")
    """Where the learning rate ends (the public YOLOv5's lrf)."""
    warmup_epochs: DurationOrZero = setting(3.0, unit="epochs")
    """Learning rates and momentum approach their values linearly over these; never over more than half of the run."""
    warmup_min_steps: Auto | CountOrZero = setting("auto", unit="optimizer steps")
    """Warm-up takes at least this many steps. `auto` is the public YOLOv5's 100, or 0 if the recipe sets `warmup_epochs`: warm-up then ends where it says."""
    warmup_momentum: Momentum = setting(0.8)
    """Momentum at the first step; SGD only."""
    warmup_bias_lr: Auto | RateOrZero = setting("auto")
    """Learning rate of the biases at the first step. `auto` is 0.1 for SGD and 0 for Adam and LAMB, whose steps do not shrink with the gradient."""
    gradient_clipping: Clipping = setting(10.0, unit="gradient norm")
    """Longer gradients are scaled down to this norm; 0 clips nothing. Always written to DeepSpeed's JSON: its own default is 1.0."""
    multi_scale: Share = setting(0.0, unit="share of model.image_size")
    """Each step's images are scaled by a random factor between 1 minus and 1 plus this, the same on all ranks, so that none waits for one with larger images; the public YOLOv5's is 0.5."""
    ema: bool = setting(True)
    """Evaluate and keep an exponential moving average of the weights."""
    ema_decay: Momentum = setting(0.9999)
    """The average's decay in the long run."""
    ema_ramp_steps: Count = setting(2000, unit="optimizer steps")
    """The decay approaches its value as 1 - exp(-step / this)."""
    ema_steps_per_step: Weight = setting(1.0, unit="steps of the average")
    """Steps that the average counts per optimizer step. `base_batch` sets it to the ratio of the batches, so that the average looks back over the same images."""
    seed: CountOrZero = setting(0)
    """Seed of all randomness: weights, order of the data, augmentation."""


class StabilitySection(Section):
    """If a step's loss or gradient is non-finite or a spike, all ranks skip the step."""

    spike_score: Score = setting(8.0, unit="robust z-score")
    """A loss or gradient norm is a spike if its logarithm is this many standard deviations (1.4826 times the median absolute deviation) above the median of the last 100 steps. 0: skip only non-finite steps."""
    strikes: Count = setting(5, unit="steps")
    """With this many bad steps among the last `strike_window`, roll back to the last good checkpoint and skip the data of the steps since then."""
    strike_window: Count = setting(20, unit="steps")
    """See `strikes`."""
    rollbacks: CountOrZero = setting(3)
    """Most rollbacks per run; after that it stops and names the layer and the images."""
    lr_factor: Factor = setting(0.5)
    """Factor on the learning rate for `calm_steps` after a rollback."""
    calm_steps: CountOrZero = setting(200, unit="steps")
    """See `lr_factor`."""


class EvaluationSection(Section):
    """COCO average precision on the validation split."""

    every_epochs: Count = setting(1, unit="epochs")
    """Evaluate every this many epochs, and after the last."""
    confidence: Share = setting(0.001)
    """Detections below this are dropped before non-maximum suppression."""
    iou: Share = setting(0.6)
    """If two boxes of one class overlap more than this, the one with less confidence is dropped."""
    max_detections: Count = setting(300, unit="detections per image")
    """The most confident are kept."""
    batchnorm_images: Auto | CountOrZero = setting("auto", unit="images")
    """Training images, over all ranks, on which BatchNorm's statistics are estimated before averaged weights are evaluated or saved: no step had those weights. At most an epoch's. 0 keeps the average of the steps' statistics. `auto` is 512, or 0 with SyncBatchNorm, or if nothing is averaged (`train.ema: false`, no local steps)."""
    rectangular: bool = setting(True)
    """Pad each image to the smallest rectangle that the network accepts, not to a square: less padding to compute."""


class CheckpointSection(Section):
    """DeepSpeed checkpoints, from which a run resumes."""

    every_epochs: Count = setting(1, unit="epochs")
    """Save every this many epochs, and after the last."""
    every_steps: CountOrZero = setting(0, unit="optimizer steps")
    """Save also within an epoch, every this many steps of the run (with local steps: at the next sync). A resumed run sees the epoch's remaining images. 0: not within an epoch."""
    keep: Count = setting(2, unit="checkpoints")
    """The newest that stay on disk; the best weights are kept beside them as weights/best.safetensors."""
    resume: str = setting("never")
    """`never` starts a new run. `auto` resumes this recipe's newest run that has a checkpoint, unless it or a later one is finished. Or a run's folder."""
    leave_seconds: Duration = setting(30.0, unit="seconds")
    """After SIGTERM, SIGINT or SIGUSR1: how long the ranks may take to end the step, write a checkpoint and shut down before they are killed; SLURM kills after its KillWait, 30 s."""


class WandbSection(Section):
    """Weights & Biases; offline by default, so that no account is needed."""

    mode: Literal["offline", "online", "disabled"] = setting("offline")
    """`offline` writes the run into its folder, for `wandb sync`; `online` needs WANDB_API_KEY."""
    project: OneLine = setting("yolov5-deepspeed")
    """The project that runs are listed under."""
    entity: OneLine | None = setting(None)
    """The team or user; none takes the account's own."""
    tags: tuple[OneLine, ...] = setting(())
    """Words to find the run by."""
    images: CountOrZero = setting(8, unit="images")
    """Validation images logged with predicted and true boxes at each evaluation that is the best until then."""
    upload_weights: Auto | bool = setting("auto")
    """Log the best weights as an artifact. `auto`: only offline, where it costs no traffic."""


class TrackingSection(Section):
    """Logs and their interval."""

    log_every_steps: Count = setting(10, unit="optimizer steps")
    """Losses, rates, seconds and bytes are averaged over this many steps and logged as one line."""
    wandb: WandbSection = WandbSection()
    """Weights & Biases."""
