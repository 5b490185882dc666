"""A recipe: the one source of keys, types, bounds, defaults and their documentation."""

from typing import Literal

from pydantic import JsonValue

from yolo.recipe.section import OneLine, Section, setting
from yolo.recipe.sections.checkpoint import CheckpointSection
from yolo.recipe.sections.cluster import ClusterSection
from yolo.recipe.sections.communication import CommunicationSection
from yolo.recipe.sections.data import DataSection
from yolo.recipe.sections.evaluation import EvaluationSection
from yolo.recipe.sections.loss import LossSection
from yolo.recipe.sections.model import ModelSection
from yolo.recipe.sections.optimizer import OptimizerSection, SGDSection
from yolo.recipe.sections.precision import PrecisionSection
from yolo.recipe.sections.stability import StabilitySection
from yolo.recipe.sections.tracking import TrackingSection
from yolo.recipe.sections.train import TrainSection
from yolo.recipe.sections.zero import ZeroSection


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
