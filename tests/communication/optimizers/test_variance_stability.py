"""When the second moment is called stable."""

from yolo.communication.optimizers.onebit_adam import VarianceStabilityTest


def frozen_at(norms: list[float], warmup_steps: int = 20, beta2: float = 0.9) -> int:
    stability = VarianceStabilityTest(beta2, warmup_steps, steps=len(norms))
    return next(step for step, norm in enumerate(norms, 1) if is_stable(stability, step, norm))


def is_stable(stability: VarianceStabilityTest, step: int, norm: float) -> bool:
    stability.observe(norm)
    return stability.is_stable(step)


def test_a_moment_that_stands_still_is_frozen_when_the_learning_rate_has_risen() -> None:
    assert frozen_at([1.0] * 1000) == 20


def test_one_that_grows_or_falls_waits_until_it_does_so_slowly() -> None:
    growing = [min(step, 120) for step in range(1, 1001)]
    # Within 4% over the 10 steps that beta2 looks back: 120 against 116 or more.
    assert frozen_at([float(norm) for norm in growing]) == 126
    falling = [float(max(200 - step, 50)) for step in range(1, 1001)]
    assert frozen_at(falling) == 158


def test_one_that_never_settles_is_frozen_after_a_quarter_of_the_run() -> None:
    assert frozen_at([1.1**step for step in range(1, 1001)]) == 250


def test_a_test_resumes_from_a_checkpoint() -> None:
    norms = [float(min(step, 120)) for step in range(1, 1001)]
    first = VarianceStabilityTest(0.9, 20, 1000)
    for step in range(1, 100):
        assert not is_stable(first, step, norms[step - 1])
    second = VarianceStabilityTest(0.9, 20, 1000)
    second.load(first.norms)
    found = next(step for step in range(100, 1001) if is_stable(second, step, norms[step - 1]))
    assert found == frozen_at(norms)
