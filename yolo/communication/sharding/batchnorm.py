"""BatchNorm whose statistics are of the images of several ranks, on CPUs and GPUs; torch's SyncBatchNorm needs GPUs.

One all-gather of mean and variance in the forward pass, one all-reduce of two sums in the backward pass, as torch's. Each
rank must have as many images of the same size.
"""

from typing import Any

import deepspeed.comm as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the ranks of a process group; names and shapes of the state dict are the same."""

    group: Any = None

    @classmethod
    def convert(cls, model: nn.Module, group: Any) -> None:
        """Replace each BatchNorm of a model, which keeps its parameters and buffers."""
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, cls.of(child, group))

    @classmethod
    def of(cls, plain: nn.BatchNorm2d, group: Any) -> "SharedBatchNorm2d":
        """The same layer with statistics of all ranks of the group. ValueError without parameters or buffers."""
        if not plain.affine or not plain.track_running_stats:
            raise ValueError("expected BatchNorm with weight, bias and running statistics")
        shared = cls(plain.num_features, plain.eps, plain.momentum, device="meta")
        for name, tensor in (*plain.named_parameters(), *plain.named_buffers()):
            setattr(shared, name, tensor)
        shared.group = group
        shared.train(plain.training)
        return shared

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        with torch.no_grad():
            mean, variance, count = statistics_of(features, self.running_mean, self.group)
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        normalised: Tensor = _Normalise.apply(
            features, self.weight, self.bias, mean, variance, self.eps, count, self.group
        )
        return normalised


def statistics_of(features: Tensor, like: Tensor, group: Any) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance (C,) of features (B, C, H, W) of all ranks, in the type of `like`, and the elements' count.

    The ranks' means and variances are combined, not sums of squares, which cancel (Chan et al. 1979).
    """
    buffers = torch.zeros_like(like), torch.ones_like(like)
    local = torch.cat(torch.batch_norm_update_stats(features, *buffers, 0.0))  # (2 C,)
    ranks = dist.get_world_size(group)
    gathered = local.new_empty(ranks * local.numel())
    dist.all_gather_into_tensor(gathered, local, group=group)
    means, variances = gathered.view(ranks, 2, -1).unbind(1)  # (ranks, C)
    variance = variances.mean(0) + means.var(0, correction=0)
    return means.mean(0), variance, ranks * features.numel() // features.shape[1]


class _Normalise(torch.autograd.Function):
    """BatchNorm with given statistics, whose gradient knows that they depend on the features of all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        epsilon: float,
        count: int,
        group: Any,
    ) -> Tensor:
        ctx.save_for_backward(features, weight, mean, variance)
        ctx.epsilon, ctx.count, ctx.group = epsilon, count, group
        return batch_norm(features, mean, variance, weight, bias, False, 0.0, epsilon)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, variance = ctx.saved_tensors
        inverse_std = torch.rsqrt(variance + ctx.epsilon)
        # With fixed statistics first: weight / std times the output's gradient; and this rank's sums for weight and bias.
        own, weight_sum, bias_sum = torch.ops.aten.native_batch_norm_backward(
            gradient,
            features,
            weight,
            mean,
            variance,
            mean,
            inverse_std,
            False,
            ctx.epsilon,
            [True, True, True],
        )
        sums = torch.cat((weight_sum, bias_sum))
        dist.all_reduce(sums, group=ctx.group)
        of_weight, of_bias = (sums / ctx.count).chunk(
            2
        )  # means of gradient x normalised, and of gradient
        scale = weight * inverse_std
        slope = scale * inverse_std * of_weight
        offset = scale * of_bias - slope * mean
        slope, offset = slope.view(1, -1, 1, 1), offset.view(1, -1, 1, 1)
        # In fp32 also under autocast: a rounded offset would shift the gradients of a whole channel.
        in_place = own if own.dtype == slope.dtype else None
        total = torch.addcmul(own, features, slope, value=-1, out=in_place).sub_(offset)
        return total.to(own.dtype), weight_sum, bias_sum, None, None, None, None, None
