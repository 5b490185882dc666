"""BatchNorm's statistics for weights that no step had: an average over steps, or over ranks that took local steps.

As for stochastic weight averaging: P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
Generalization", UAI 2018, section 3.2. Wu and Johnson ("Rethinking 'Batch' in BatchNorm", 2021) call it precise BatchNorm.
"""

from itertools import chain, islice

from yolo.data.loader.samples import to_network
from yolo.data.shards.stream import training_loader
from yolo.model import YOLOv5
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.batchnorm import estimate_statistics
from yolo.training.engine.distributed import DistributedContext
from yolo.training.loop.auto_precision import TORCH_DTYPES
from yolo.training.loop.datasets import Datasets


class PreciseBatchNorm:
    """Estimates the statistics on training batches, as training augments them at that epoch.

    The batches depend on the position in the run only, so that a resumed run evaluates as an uninterrupted one. A loader of
    its own, without workers: the training's may be within an epoch.
    """

    def __init__(self, datasets: Datasets, recipe: Recipe, context: DistributedContext) -> None:
        self.device = context.device
        self.dtype = TORCH_DTYPES[recipe.precision.dtype]
        self.last_epoch = recipe.train.epochs - 1
        at_once = recipe.train.micro_batch * context.data_ranks
        self.batches = -(-recipe.evaluation.batchnorm_images // at_once)
        """Micro batches per rank; 0 keeps the statistics that the steps gathered."""
        buffer = max(1, self.batches * recipe.train.micro_batch)
        data = recipe.data.model_copy(update={"workers": 0, "shuffle_buffer": buffer})
        self.loader = training_loader(
            datasets.train_images,
            recipe.model_copy(update={"data": data}),
            context.data_rank,
            context.data_ranks,
        )

    def write_into(self, model: YOLOv5, epoch: int) -> None:
        """Replace the statistics of a plain network, the same on all ranks; collective. `epoch` counts from 0."""
        if not self.batches:
            return
        steps = self.loader.epoch(min(epoch, self.last_epoch))
        batches = islice(chain.from_iterable(steps), self.batches)
        inputs = (to_network(batch.images, self.device, self.dtype) for batch in batches)
        estimate_statistics(model, inputs, self.dtype)
