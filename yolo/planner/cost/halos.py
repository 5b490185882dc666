"""Messages of a network that is sharded by columns: the halos of its layers, and BatchNorm's statistics."""

from collections.abc import Iterator, Sequence

from yolo.architecture import Window, windows
from yolo.communication.metering.wire_bytes import POINT_TO_POINT
from yolo.communication.sharding.halo_size import Halo
from yolo.planner.cost.model_stats import Network
from yolo.planner.cost.timeline import CommEvent
from yolo.recipe.resolve.resolve import ranks_per_node
from yolo.recipe.schema.recipe import Recipe


def forward_halos(recipe: Recipe) -> Iterator[CommEvent]:
    """The exchanges of a forward pass: columns of each layer's input; none if images are not sharded."""
    return _exchanges(recipe, windows(recipe.model.variant))


def backward_halos(recipe: Recipe) -> Iterator[CommEvent]:
    """Those of a backward pass: the halos' gradients; the images need none."""
    return _exchanges(recipe, windows(recipe.model.variant)[:0:-1])


def halo_bytes(recipe: Recipe) -> float:
    """What a rank between two others keeps for backward beside its stripe, per micro batch."""
    if recipe.sharding.columns == 1:
        return 0.0
    return sum(
        _column_bytes(recipe, each) * _halo(each).columns for each in windows(recipe.model.variant)
    )


def _exchanges(recipe: Recipe, layers: Sequence[Window]) -> Iterator[CommEvent]:
    """One event per layer. Sent over each border between stripes: a halo's left columns one way, its right ones the other."""
    columns = recipe.sharding.columns
    borders_per_rank = (columns - 1) / columns
    for layer in layers if columns > 1 else ():
        halo = _halo(layer)
        yield CommEvent(
            POINT_TO_POINT,
            _column_bytes(recipe, layer) * halo.columns * borders_per_rank,
            is_waited=True,
            ranks=columns,
            messages=((halo.left > 0) + (halo.right > 0)) * borders_per_rank,
        )


def _halo(layer: Window) -> Halo:
    return Halo.of(layer.kernel, layer.stride, layer.padding)


def _column_bytes(recipe: Recipe, layer: Window) -> float:
    """Of one column of a layer's input; autocast keeps features and their gradients in 16 bits."""
    width = 4 if recipe.precision.dtype == "fp32" else 2
    rows = recipe.model.image_size // layer.reduction
    return float(recipe.train.micro_batch * layer.channels * rows * width)


def batchnorm_ranks(recipe: Recipe, ranks: int) -> int:
    """How many ranks share BatchNorm's statistics, as in yolo.training.engine.distributed."""
    columns = recipe.sharding.columns
    return max(ranks_per_node(recipe, ranks), columns) if recipe.model.sync_batchnorm else columns


def forward_statistics(recipe: Recipe, network: Network, ranks: int) -> Iterator[CommEvent]:
    """An all-gather of each layer's mean and variance, in fp32; none if each rank has its own."""
    shared = batchnorm_ranks(recipe, ranks)
    for channels in batchnorm_channels(network) if shared > 1 else ():
        yield CommEvent("all_gather", 4 * 2 * channels * shared, is_waited=True, ranks=shared)


def backward_statistics(recipe: Recipe, network: Network, ranks: int) -> Iterator[CommEvent]:
    """An all-reduce of each layer's two sums, in fp32."""
    shared = batchnorm_ranks(recipe, ranks)
    for channels in batchnorm_channels(network) if shared > 1 else ():
        yield CommEvent("all_reduce", 4 * 2 * channels, is_waited=True, ranks=shared)


def batchnorm_channels(network: Network) -> list[int]:
    """Channels of each BatchNorm."""
    return [tensor.elements for tensor in network.tensors if tensor.group == "norms"]
