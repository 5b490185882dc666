"""`zero`: what DeepSpeed's ZeRO shards among the ranks, in DeepSpeed's own words."""

from typing import Literal

from yolo.recipe.schema.fields import Auto, Count, CountOrZero, Section, Stage, setting


class ZeroSection(Section):
    """DeepSpeed's `zero_optimization`; a YOLOv5 rarely needs it for memory, and every stage above 0 sends more."""

    stage: Stage = setting(0)
    """Sharded among the ranks: 0 nothing, 1 optimizer state, 2 gradients as well, 3 parameters as well."""
    overlap_comm: Auto | bool = setting("auto")
    """Exchange gradients while backward still computes; `auto` is true from stage 1 on, and has no effect at stage 0."""
    reduce_bucket_size: Auto | Count = setting("auto", unit="elements")
    """Gradients gathered before they are sent; `auto` fits the network, DeepSpeed's 5e8 never fills with one this small."""
    contiguous_gradients: bool = setting(True)
    """Copy gradients into one buffer as they are produced."""
    use_multi_rank_bucket_allreduce: bool = setting(True)
    """true: all-reduce each bucket (two volumes). false: one reduce to each owner (one volume, more messages). Stages 1 and 2."""
    round_robin_gradients: bool = setting(False)
    """Spread the copying of gradients over the ranks; stages 1 and 2."""
    offload_optimizer: Literal["none", "cpu"] = setting("none")
    """Keep the optimizer's state in host memory; stages 1 to 3, AdamW, and a compiler on every host."""
    stage3_param_persistence_threshold: Auto | CountOrZero = setting("auto", unit="elements")
    """Parameters smaller than this stay whole on every rank; stage 3. `auto` keeps BatchNorm, biases and small convolutions."""
    stage3_prefetch_bucket_size: Auto | CountOrZero = setting("auto", unit="elements")
    """Parameters fetched ahead of their use; stage 3. `auto` is reduce_bucket_size."""
