"""Rules for sharding by columns."""

from collections.abc import Iterator

from yolo.architecture import strides
from yolo.recipe.resolve.resolve import ResolvedRecipe, ranks_per_node
from yolo.recipe.rules.engine import Finding, error, on, rule, warning
from yolo.recipe.schema.recipe import Recipe

LEAST_CELLS = 2
"""Columns of cells per stripe on the coarsest level: SPPF's max-pool reads two beside each."""


@on(error, "sharding.columns")
def each_stripe_has_whole_cells(recipe: Recipe) -> Iterator[str]:
    columns, size = recipe.sharding.columns, recipe.model.image_size
    if columns == 1:
        return
    stride = strides(recipe.model.variant)[-1]
    least, step = LEAST_CELLS * stride * columns, stride * columns
    if size >= least and size % step == 0:
        return
    above = max(least, -(-size // step) * step)
    below = size // step * step
    near = f"{below} or {above}" if below >= least else f"{above}"
    yield (
        f"{size} pixels do not divide among {columns} stripes of {LEAST_CELLS} or more cells of {stride}; set model.image_size "
        f"to {near}"
    )


@rule
def an_image_stays_inside_a_node(resolved: ResolvedRecipe) -> Iterator[Finding]:
    columns = resolved.recipe.sharding.columns
    if columns == 1:
        return
    each = ranks_per_node(resolved.recipe, resolved.world_size)
    if max(columns, each) % min(columns, each):
        text = (
            f"images of {columns} columns, and {each} ranks per node: some images would lie on two nodes and others on one; "
            f"expected a divisor of {each}"
        )
        yield error(text, key="sharding.columns")
    elif columns > each:
        text = (
            f"an image lies on {columns // each} nodes of {each} ranks, whose network carries a pair of messages for each layer "
            "(`yolo plan` says what that costs); shard by columns inside a node only"
        )
        yield warning(text, key="sharding.columns")


@rule
def fewer_nodes_hold_fewer_shares(resolved: ResolvedRecipe) -> Iterator[Finding]:
    cluster = resolved.recipe.cluster
    is_elastic = cluster.least_nodes != "auto" and cluster.least_nodes < cluster.nodes
    if is_elastic and resolved.is_set(("sharding", "data")):
        text = (
            f"{resolved.recipe.sharding.data} shares need all {cluster.nodes} nodes, and cluster.least_nodes is "
            f"{cluster.least_nodes}; leave sharding.data at auto"
        )
        yield error(text, key="sharding.data")
    columns, each = (
        resolved.recipe.sharding.columns,
        ranks_per_node(resolved.recipe, resolved.world_size),
    )
    if is_elastic and columns > each:
        text = (
            f"an image lies on {columns // each} nodes, so the run cannot go on without any one; set cluster.least_nodes to "
            f"{cluster.nodes}"
        )
        yield error(text, key="cluster.least_nodes")
