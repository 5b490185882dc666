"""The papers' algorithms in plain NumPy and float64, all ranks in one process: slow, and meant to be read beside them.

What every paper leaves open is filled as `yolo/communication` documents it: a scale is the mean of absolute values over
at most 512 elements of one tensor, in fp32; both moments are bias-corrected; a frozen second moment has a floor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Weights = list[Vector]
"""One flat array a tensor."""
Gradient = Callable[[int, int, Weights], Weights]
"""(rank, step counted from 1, weights) -> gradient."""

BLOCK = 512
FLOOR = 0.01


@dataclass(frozen=True)
class Settings:
    """Learning rate and weight decay of each tensor, and Adam's constants."""

    rates: Sequence[float]
    decays: Sequence[float]
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8


def one_bit(values: Vector) -> Vector:
    """C[x]: in each block the mean magnitude with each element's sign."""
    out = np.empty_like(values)
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        scale = float(np.float32(np.abs(block).mean()))
        out[start : start + BLOCK] = np.where(np.signbit(block), -scale, scale)
    return out


@dataclass
class OneBitAllReduce:
    """Compress, average, compress again; both sides remember what they left out."""

    ranks: int
    worker_errors: dict[tuple[int, int], Vector] = field(default_factory=dict)
    server_errors: dict[int, Vector] = field(default_factory=dict)

    def __call__(self, of_ranks: Sequence[Weights]) -> Weights:
        result = []
        for tensor in range(len(of_ranks[0])):
            total = np.zeros_like(of_ranks[0][tensor])
            for rank in range(self.ranks):
                error = self.worker_errors.get((rank, tensor), 0.0)
                compensated = of_ranks[rank][tensor] + error
                sent = one_bit(compensated)
                self.worker_errors[rank, tensor] = compensated - sent
                total = total + sent
            compensated = total / self.ranks + self.server_errors.get(tensor, 0.0)
            sent = one_bit(compensated)
            self.server_errors[tensor] = compensated - sent
            result.append(sent)
        return result


def mean(of_ranks: Sequence[Weights]) -> Weights:
    return [np.mean(each, axis=0) for each in zip(*of_ranks, strict=True)]


def root(v: Weights, updates: int, settings: Settings) -> Weights:
    return [np.sqrt(each / (1 - settings.beta2**updates)) + settings.eps for each in v]


def floored_root(v: Weights, updates: int, settings: Settings) -> Weights:
    floored = []
    for each in v:
        high = each.copy()
        for start in range(0, len(each), BLOCK):
            block = each[start : start + BLOCK]
            high[start : start + BLOCK] = np.maximum(block, FLOOR * block.mean())
        floored.append(high)
    return root(floored, updates, settings)


def one_bit_adam(
    start: Weights, gradient: Gradient, ranks: int, steps: int, freeze_step: int, s: Settings
) -> list[Weights]:
    """Tang et al. 2021, algorithm 1: weights after each step."""
    x = [each.copy() for each in start]
    m = [np.zeros_like(each) for each in x]
    v = [np.zeros_like(each) for each in x]
    exchange = OneBitAllReduce(ranks)
    history = []
    for t in range(1, steps + 1):
        gradients = [gradient(rank, t, x) for rank in range(ranks)]
        if t <= freeze_step:
            g = mean(gradients)
            m = [s.beta1 * a + (1 - s.beta1) * b for a, b in zip(m, g, strict=True)]
            v = [s.beta2 * a + (1 - s.beta2) * b * b for a, b in zip(v, g, strict=True)]
            d = root(v, t, s)
            if t == freeze_step:
                frozen = floored_root(v, t, s)
        else:
            d = frozen
            m = exchange(
                [
                    [s.beta1 * a + (1 - s.beta1) * b for a, b in zip(m, g, strict=True)]
                    for g in gradients
                ]
            )
        x = [
            a * (1 - lr * wd) - lr / (1 - s.beta1**t) * b / c
            for a, b, c, lr, wd in zip(x, m, d, s.rates, s.decays, strict=True)
        ]
        history.append(x)
    return history


def zero_one_adam(
    start: Weights,
    gradient: Gradient,
    ranks: int,
    steps: int,
    policies: tuple[int, int, int, int],
    s: Settings,
) -> list[list[Weights]]:
    """Lu et al. 2023, algorithm 1: every rank's weights after each step.

    `policies` are var_freeze_step, var_update_scaler, local_step_scaler and local_step_clipper.
    """
    freeze, kappa, doubling, clipper = policies
    renewing = set()
    t, k = 1, 0
    while t <= freeze:
        renewing.add(t)
        t += 2 ** (k // kappa)
        k += 1
    exchanging = set()
    t = 1
    while t <= steps:
        exchanging.add(t)
        t += 1 if t <= freeze else min(clipper, 2 ** ((t - freeze) // doubling))

    tensors = range(len(start))
    x = [[each.copy() for each in start] for _ in range(ranks)]
    m = [[np.zeros_like(each) for each in start] for _ in range(ranks)]
    u = [[np.zeros_like(each) for each in start] for _ in range(ranks)]
    v = [np.zeros_like(each) for each in start]
    updates = 0
    exchange = OneBitAllReduce(ranks)
    anchor = [each.copy() for each in start]
    rate = [0.0 for _ in tensors]
    kept = [1.0 for _ in tensors]
    history = []
    for t in range(1, steps + 1):
        gradients = [gradient(rank, t, x[rank]) for rank in range(ranks)]
        if t in renewing:
            g = mean(gradients)
            v = [s.beta2 * a + (1 - s.beta2) * b * b for a, b in zip(v, g, strict=True)]
            updates += 1
            gradients = [g] * ranks
        d = floored_root(v, updates, s)
        for i in tensors:
            rate[i] += s.rates[i] / (1 - s.beta1**t)
            kept[i] *= 1 - s.rates[i] * s.decays[i]
        for rank in range(ranks):
            for i in tensors:
                step = s.rates[i] / (1 - s.beta1**t)
                m[rank][i] = s.beta1 * m[rank][i] + (1 - s.beta1) * gradients[rank][i]
                u[rank][i] = u[rank][i] + step * m[rank][i]
                x[rank][i] = x[rank][i] * (1 - s.rates[i] * s.decays[i]) - step * m[rank][i] / d[i]
        if t in exchanging:
            ubar = [each / r for each, r in zip(u[0], rate, strict=True)]
            if t not in renewing:
                ubar = exchange([[each / r for each, r in zip(of, rate, strict=True)] for of in u])
            together = [anchor[i] * kept[i] - rate[i] * ubar[i] / d[i] for i in tensors]
            anchor = together
            for rank in range(ranks):
                x[rank] = [each.copy() for each in together]
                m[rank] = [each.copy() for each in ubar]
                u[rank] = [np.zeros_like(each) for each in start]
            rate = [0.0 for _ in tensors]
            kept = [1.0 for _ in tensors]
        history.append([[each.copy() for each in of] for of in x])
    return history


@dataclass(frozen=True)
class LambBounds:
    """1-bit LAMB's constants, by the paper's names."""

    c_min: float = 0.01
    c_max: float = 10.0
    beta3: float = 0.9
    r_min: float = 0.5
    r_max: float = 4.0
    threshold: float = 0.1


def one_bit_lamb(
    start: Weights,
    gradient: Gradient,
    ranks: int,
    steps: int,
    freeze_step: int,
    s: Settings,
    bounds: LambBounds,
) -> list[Weights]:
    """Li et al. 2022, algorithm 1: weights after each step."""
    tensors = range(len(start))
    x = [each.copy() for each in start]
    m = [np.zeros_like(each) for each in x]
    v = [np.zeros_like(each) for each in x]
    c_avg = [0.0 for _ in tensors]
    r = [1.0 for _ in tensors]
    fresh = d = v
    exchange = OneBitAllReduce(ranks)
    history = []
    for t in range(1, steps + 1):
        gradients = [gradient(rank, t, x) for rank in range(ranks)]
        moved = [
            [s.beta1 * a + (1 - s.beta1) * b for a, b in zip(m, g, strict=True)] for g in gradients
        ]
        before = m
        is_warm = t <= freeze_step
        m = mean(moved) if is_warm else exchange(moved)
        if is_warm:
            g = mean(gradients)
            v = [s.beta2 * a + (1 - s.beta2) * b * b for a, b in zip(v, g, strict=True)]
            d = root(v, t, s)
        after = []
        for i in tensors:
            plain = m[i] / (1 - s.beta1**t) / d[i]
            direction = plain + s.decays[i] * x[i]
            if is_warm:
                sizes = np.linalg.norm(x[i]), np.linalg.norm(direction)
                c = np.clip(sizes[0] / sizes[1], bounds.c_min, bounds.c_max) if min(sizes) else 1.0
                c_avg[i] = bounds.beta3 * c_avg[i] + (1 - bounds.beta3) * c
            else:
                implied = (m[i] - s.beta1 * before[i]) / (1 - s.beta1)
                fresh[i] = s.beta2 * fresh[i] + (1 - s.beta2) * implied**2
                fresh_root = floored_root([fresh[i]], t, s)[0]
                share = min(1.0, np.linalg.norm(plain) / np.linalg.norm(direction))
                factor = float((d[i] / fresh_root).max()) * share + 1 - share
                factor = np.clip(factor, bounds.r_min, bounds.r_max)
                low, high = r[i] * (1 - bounds.threshold), r[i] * (1 + bounds.threshold)
                r[i] = float(np.clip(factor, low, high))
                c = r[i] * c_avg[i]
            after.append(x[i] - s.rates[i] * c * direction)
        x = after
        if t == freeze_step:
            d = floored_root(v, t, s)
            fresh = [each.copy() for each in v]
            c_avg = [each / (1 - bounds.beta3**t) for each in c_avg]
        history.append(x)
    return history
