"""A recipe: the one source of keys, types, bounds, defaults and their documentation."""

from typing import Literal

from pydantic import JsonValue

from yolo.recipe.schema.checkpoint import CheckpointSection
from yolo.recipe.schema.cluster import ClusterSection
from yolo.recipe.schema.communication import CommunicationSection
from yolo.recipe.schema.data import DataSection
from yolo.recipe.schema.evaluation import EvaluationSection
from yolo.recipe.schema.fields import OneLine, Section, setting
from yolo.recipe.schema.loss import LossSection
from yolo.recipe.schema.model import ModelSection
from yolo.recipe.schema.optimizer import OptimizerSection, SGDSection
from yolo.recipe.schema.precision import PrecisionSection
from yolo.recipe.schema.stability import StabilitySection
from yolo.recipe.schema.tracking import TrackingSection
from yolo.recipe.schema.train import TrainSection
from yolo.recipe.schema.zero import ZeroSection


class Recipe(Section):
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
