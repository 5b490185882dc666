"""A recipe as it is written and as it is resolved: the one source of keys, types, bounds, defaults and their documentation."""

from typing import Literal

from pydantic import JsonValue

from yolo.recipe.schema.checkpoint import CheckpointSection
from yolo.recipe.schema.cluster import ClusterSection
from yolo.recipe.schema.communication import CommunicationSection
from yolo.recipe.schema.data import AugmentationSection, DataSection
from yolo.recipe.schema.evaluation import EvaluationSection
from yolo.recipe.schema.fields import (
    Count,
    CountOrZero,
    Degrees,
    HueShare,
    Momentum,
    OneLine,
    RateOrZero,
    Section,
    Share,
    setting,
)
from yolo.recipe.schema.loss import LossSection
from yolo.recipe.schema.model import ModelSection
from yolo.recipe.schema.optimizer import OptimizerSection, SGDSection
from yolo.recipe.schema.precision import PrecisionSection
from yolo.recipe.schema.stability import StabilitySection
from yolo.recipe.schema.tracking import TrackingSection, WandbSection
from yolo.recipe.schema.train import TrainSection
from yolo.recipe.schema.zero import ZeroSection


class UnresolvedRecipe(Section):
    """One training run. A file may start from another (`extends: other.yaml`) and state only what differs."""

    description: OneLine = setting()
    """One line that says what the run is for."""
    strategy: Literal["as_written", "auto"] = setting("as_written")
    """`auto` takes the first choice of `yolo plan` for cluster.profile, among those that learn as the recipe does, for zero, communication and (within Adam's kind) optimizer.type; it says what and why, and the run's recipe.yaml records it."""
    model: ModelSection = ModelSection()
    """The network."""
    data: DataSection = DataSection()
    """The data set and its augmentation."""
    train: TrainSection = TrainSection()
    """Epochs, batches and schedule."""
    loss: LossSection = LossSection()
    """Weights of the loss's parts."""
    optimizer: OptimizerSection = SGDSection()
    """The update rule."""
    zero: ZeroSection = ZeroSection()
    """What DeepSpeed shards among the ranks."""
    precision: PrecisionSection = PrecisionSection()
    """The number format of the computation."""
    communication: CommunicationSection = CommunicationSection()
    """How ranks exchange gradients."""
    stability: StabilitySection = StabilitySection()
    """What is done about steps that would spoil the weights."""
    evaluation: EvaluationSection = EvaluationSection()
    """How the network is judged."""
    checkpoint: CheckpointSection = CheckpointSection()
    """What is kept, and where a run goes on from."""
    tracking: TrackingSection = TrackingSection()
    """What is written down."""
    cluster: ClusterSection = ClusterSection()
    """On which machines."""
    deepspeed: dict[str, JsonValue] = setting({})
    """Further keys for DeepSpeed's JSON, checked against DeepSpeed's own models; keys that a section above sets are refused."""


# The same sections once `resolve` has computed their `auto` values: each field states the type that is left.


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


class ResolvedWandb(WandbSection):
    upload_weights: bool


class ResolvedTracking(TrackingSection):
    wandb: ResolvedWandb


class ResolvedCluster(ClusterSection):
    processes_per_node: Count
    backend: Literal["nccl", "gloo", "mpi"]
    threads_per_process: Count


class Recipe(UnresolvedRecipe):
    """A recipe for a number of ranks: what training, the planner and DeepSpeed's configuration read.

    `auto` is left only where the run itself decides, from its data (`model.anchors`), its steps (`freeze_step`), or the
    machine at that moment (`cluster.master_port`, `data.cache_gb`).
    """

    model: ResolvedModel
    data: ResolvedData
    train: ResolvedTrain
    zero: ResolvedZero
    precision: ResolvedPrecision
    communication: ResolvedCommunication
    tracking: ResolvedTracking
    cluster: ResolvedCluster
