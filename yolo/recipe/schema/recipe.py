"""A recipe, written and resolved: the one source of keys, types, bounds, defaults and their documentation."""

from typing import Literal

from pydantic import JsonValue

from yolo.recipe.schema.data import AugmentationSection, DataSection
from yolo.recipe.schema.distributed import (
    Backend,
    ClusterSection,
    CommunicationSection,
    ZeroSection,
)
from yolo.recipe.schema.fields import (
    Count,
    CountOrZero,
    Degrees,
    HueShare,
    Momentum,
    OneLine,
    Rate,
    RateOrZero,
    Section,
    Share,
    setting,
)
from yolo.recipe.schema.model import LossSection, ModelSection, PrecisionSection
from yolo.recipe.schema.optimizer import OptimizerSection, SGDSection
from yolo.recipe.schema.train import (
    CheckpointSection,
    EvaluationSection,
    StabilitySection,
    TrackingSection,
    TrainSection,
    WandbSection,
)


class UnresolvedRecipe(Section):
    """One training run. A file may extend another (`extends: other.yaml`) and state only what differs."""

    description: OneLine = setting()
    """The purpose of the run, in one line."""
    strategy: Literal["as_written", "auto"] = setting("as_written")
    """`auto` applies the first choice of `yolo plan` for cluster.profile to zero, communication and (among Adam's variants) optimizer.type. It takes a strategy that changes the gradients only if its measured AP is within 0.01 of the reference's (the column `AP kept` of the plan). The choice and its reasons are logged and recorded in the run's recipe.yaml."""
    model: ModelSection = ModelSection()
    """The network."""
    data: DataSection = DataSection()
    """The data set and its augmentation."""
    train: TrainSection = TrainSection()
    """Epochs, batches and schedule."""
    loss: LossSection = LossSection()
    """Weights of the parts of the loss."""
    optimizer: OptimizerSection = SGDSection()
    """The update rule."""
    zero: ZeroSection = ZeroSection()
    """What DeepSpeed shards among the ranks."""
    precision: PrecisionSection = PrecisionSection()
    """The number format of the computation."""
    communication: CommunicationSection = CommunicationSection()
    """How ranks exchange gradients."""
    stability: StabilitySection = StabilitySection()
    """When to skip steps that would damage the weights, and to roll back."""
    evaluation: EvaluationSection = EvaluationSection()
    """How the network is evaluated."""
    checkpoint: CheckpointSection = CheckpointSection()
    """What is saved, and from where a run resumes."""
    tracking: TrackingSection = TrackingSection()
    """What is logged."""
    cluster: ClusterSection = ClusterSection()
    """The machines of the run."""
    deepspeed: dict[str, JsonValue] = setting({})
    """Further keys for DeepSpeed's JSON, checked against DeepSpeed's own models; keys that a section above sets are errors."""


# The same sections after `resolve` computed their `auto` values: each field states the type that remains.


class ResolvedModel(ModelSection):
    sync_batchnorm: bool
    batchnorm_momentum: Momentum


class ResolvedAugmentation(AugmentationSection):
    hsv_h: HueShare
    hsv_s: Share
    hsv_v: Share
    degrees: Degrees
    translate: Share
    scale: Share
    shear: Degrees
    perspective: Share
    flipud: Share
    fliplr: Share
    mosaic: Share
    mixup: Share


class ResolvedData(DataSection):
    val_images: str
    augmentation: ResolvedAugmentation
    workers: CountOrZero


class ResolvedTrain(TrainSection):
    micro_batch: Count
    gradient_accumulation_steps: Count
    warmup_min_steps: CountOrZero
    warmup_bias_lr: RateOrZero


class ResolvedZero(ZeroSection):
    overlap_comm: bool
    reduce_bucket_size: Count
    stage3_param_persistence_threshold: CountOrZero
    stage3_prefetch_bucket_size: CountOrZero


class ResolvedPrecision(PrecisionSection):
    dtype: Literal["fp32", "bf16", "fp16"]


class ResolvedCommunication(CommunicationSection):
    data_type: Literal["fp32", "bf16", "fp16"]
    bucket_size: Count
    outer_lr: Rate
    outer_momentum: Momentum


class ResolvedEvaluation(EvaluationSection):
    batchnorm_images: CountOrZero


class ResolvedWandb(WandbSection):
    upload_weights: bool


class ResolvedTracking(TrackingSection):
    wandb: ResolvedWandb


class ResolvedCluster(ClusterSection):
    nodes: Count
    processes_per_node: Count
    accelerator: Literal["cuda", "cpu"]
    backend: Backend
    threads_per_process: Count


class Recipe(UnresolvedRecipe):
    """A recipe for a number of ranks: what training, the planner and DeepSpeed's configuration read.

    `auto` remains only where the run itself decides: from its data (`model.anchors`), from its steps (`freeze_step`), or
    from the machine at that moment (`cluster.master_port`, `data.cache_gb`).
    """

    model: ResolvedModel
    data: ResolvedData
    train: ResolvedTrain
    zero: ResolvedZero
    precision: ResolvedPrecision
    communication: ResolvedCommunication
    evaluation: ResolvedEvaluation
    tracking: ResolvedTracking
    cluster: ResolvedCluster
