"""Scale a recipe that is stated for one global batch (`train.base_batch`) to another (`train.global_batch`).

k is their ratio. An epoch has k times fewer steps, so each step must be longer, by the optimizer's own rule:

- SGD's step in a mean gradient grows with k (Goyal et al. 2017). Here it does so by itself: the loss is the mean times the
  global batch, as the public YOLOv5's, so `optimizer.lr` stays and the gradient is k times as long. Clipping has to follow,
  or it would undo the rule.
- Adam's and LAMB's steps do not depend on the gradient's length, and grow with the square root of k (You et al. 2020;
  Malladi et al. 2022). The betas stay, as in You et al. With betas to the power of k, as in Malladi et al., and with a
  clipping that grows too, BCCD at 8 times its batch learnt more slowly: AP 0.281 against 0.410 after 100 epochs, 0.427
  against 0.463 after 150, before the average and BatchNorm's statistics were scaled as below. With them (at 96 pixels,
  betas of 0.9 and 0.99, 0.004 times the root and 1,000 epochs planned): 0.344 against 0.367 after 200, 0.397 against
  0.412 after 600.

The average of the weights looks back over the same images: one step counts as k of its steps (Busbridge et al. 2023). So
do BatchNorm's running statistics (`model.batchnorm_momentum`, computed in `resolve`).

A larger batch warms up for the square root of k times the epochs: between Goyal et al., who keep the epochs, and You et
al., who keep the steps. For Adam the rate then rises as steeply over the images as at the base batch, only for longer.
"""

import math
from collections.abc import Iterator
from typing import Any

from yolo.errors import RecipeError
from yolo.recipe.load.merge import LoadedRecipe
from yolo.recipe.schema.fields import HIGHEST_COUNT, HIGHEST_RATE, Key
from yolo.recipe.schema.optimizer import SGDSection
from yolo.recipe.schema.train import HIGHEST_CLIPPING

WARMUP_STEPS = 100


def least_warmup_steps(loaded: LoadedRecipe) -> tuple[int, str]:
    """`train.warmup_min_steps` before it is scaled, with the reason if the recipe leaves it to `auto`."""
    stated = loaded.recipe.train.warmup_min_steps
    if stated != "auto":
        return stated, ""
    if ("train", "warmup_epochs") in loaded.origins:
        return 0, "train.warmup_epochs is set"
    return WARMUP_STEPS, "the public YOLOv5's"


def scaled_to_batch(loaded: LoadedRecipe) -> Iterator[tuple[Key, Any, str]]:
    """Each value that changes, with its key and formula.

    The last is `train.base_batch`, since the result is stated for the run's own batch. Nothing if the recipe has no base
    batch, or the same one. Raises RecipeError if the rate would exceed its bound.
    """
    optimizer, train = loaded.recipe.optimizer, loaded.recipe.train
    batch, base = train.global_batch, train.base_batch
    if base is None or batch == base:
        return
    ratio, words = batch / base, f"global_batch {batch} / base_batch {base}"
    root = math.sqrt(ratio)
    if isinstance(optimizer, SGDSection):
        longest = min(train.gradient_clipping * ratio, HIGHEST_CLIPPING)
        formula = f"{train.gradient_clipping:g} x {words}, since gradients are sums over the batch"
        yield ("train", "gradient_clipping"), longest, formula
    else:
        lr = optimizer.lr * root
        if lr > HIGHEST_RATE:
            raise RecipeError(
                f"{loaded.place(('train', 'global_batch'))}: train.global_batch: {words} scales optimizer.lr "
                f"{optimizer.lr:g} to {lr:g}, expected at most {HIGHEST_RATE:g}; lower optimizer.lr, or set "
                "train.base_batch=null to use it unscaled"
            )
        yield ("optimizer", "lr"), lr, f"{optimizer.lr:g} x sqrt({words})"
    if ratio > 1:
        epochs = min(train.warmup_epochs * root, float(train.epochs))
        yield ("train", "warmup_epochs"), epochs, f"{train.warmup_epochs:g} x sqrt({words})"
        # sqrt(k) times the epochs, of k times fewer steps each.
        least, _ = least_warmup_steps(loaded)
        steps = math.ceil(least / root)
        yield ("train", "warmup_min_steps"), steps, f"{least} / sqrt({words})"
    stated = train.ema_steps_per_step
    counted = min(max(stated * ratio, 1 / HIGHEST_COUNT), float(HIGHEST_COUNT))
    yield ("train", "ema_steps_per_step"), counted, f"{stated:g} x ({words})"
    yield ("train", "base_batch"), batch, f"values stated for {base} are scaled to it"
