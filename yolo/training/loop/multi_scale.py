"""Multi-scale training: the image size changes from step to step."""

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from yolo.recipe.rules.sharding import LEAST_CELLS
from yolo.recipe.schema.recipe import Recipe


class ImageSizes:
    """The image size of each optimizer step: a function of seed and step only, so the same on all ranks."""

    def __init__(self, recipe: Recipe, stride: int) -> None:
        """`stride`: the network's largest, in pixels, of all stripes; every size is a multiple of it."""
        self.size = recipe.model.image_size
        self.scale_range = recipe.train.multi_scale
        self.seed = recipe.train.seed
        self.stride = stride
        self.least = stride * (LEAST_CELLS if recipe.sharding.columns > 1 else 1)

    def at(self, step: int) -> int:
        """Pixels, for optimizer step `step`, counted from 0."""
        if self.scale_range == 0:
            return self.size
        random = np.random.default_rng((self.seed, MULTI_SCALE, step))
        drawn = self.size * random.uniform(1 - self.scale_range, 1 + self.scale_range)
        return max(self.least, round(drawn / self.stride) * self.stride)


MULTI_SCALE = 0x5CA1E
"""Separates these random numbers from the data's, which are seeded with seed and epoch."""


def scaled(images: Tensor, size: int) -> Tensor:
    """Square images (B, 3, S, S) at another size, on their device."""
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
