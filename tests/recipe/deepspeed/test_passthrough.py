from collections.abc import Callable

import pytest

from yolo.recipe.deepspeed.passthrough import SNAPSHOT, passthrough_problems

Refusal = Callable[..., str]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "gradient_acumulation_steps: 4",
            (
                "deepspeed.gradient_acumulation_steps: DeepSpeed 0.19.8 does not read this key",
                "Did you mean 'gradient_accumulation_steps'?",
                "It is set by train.gradient_accumulation_steps",
            ),
        ),
        ("zero_optimisation: {stage: 2}", ("Did you mean 'zero_optimization'?",)),
        ("gradient_clipping: -1.0", ("is set by train.gradient_clipping; set that instead",)),
        ("zero_optimization: {stage: 2}", ("is set by zero.stage",)),
        ("zero_optimization: {reduce_scater: true}", ("Did you mean 'reduce_scatter'?",)),
        ("zero_optimization: {sub_group_size: many}", ("'many' is not of type 'integer'",)),
        ("zero_optimization: {mics_shard_size: 2}", ("removed",)),
        ("flops_profiler: {enabeld: true}", ("Did you mean 'enabled'?",)),
        ("flops_profiler: {enabled: 'yes'}", ("is not of type 'boolean'",)),
        ("comms_logger: {enabled: false}", ("turns the logger on if this section is present",)),
        ("bf16: {enabled: true}", ("set precision.dtype",)),
        ("elasticity: {enabled: false}", ("Elastic training has been removed",)),
        ("sparse_gradients: true", ("removed",)),
        ("pipeline: {stages: 2}", ("is for language models",)),
        ("zero_optimization: {offload_param: {device: cpu}}", ("zero.offload_optimizer",)),
        ("gradient_allreduce_op: sum", ("multiply the gradient by the world size",)),
        ("steps_per_print: 0", ("is set by tracking.log_every_steps",)),
        ("timers: {throughput: {enabled: true}}", ("would wait for the device at every step",)),
    ],
)
def test_what_deepspeed_would_ignore_or_misread_is_refused(
    refusal: Refusal, text: str, parts: tuple[str, ...]
) -> None:
    message = refusal(f"deepspeed:\n  {text}\n")
    assert "recipe.yaml:3: deepspeed." in message
    for part in parts:
        assert part in message


def test_known_keys_pass() -> None:
    section = {
        "dump_state": True,
        "flops_profiler": {"enabled": True, "profile_step": 5},
        "zero_optimization": {"sub_group_size": 1000, "allgather_partitions": True},
    }
    assert passthrough_problems(section) == []


@pytest.mark.slow
def test_the_snapshot_is_what_the_installed_deepspeed_reads() -> None:
    from tests.recipe.deepspeed.write_schema import as_text

    assert SNAPSHOT.read_text() == as_text(), "run `python -m tests.recipe.deepspeed.write_schema`"
