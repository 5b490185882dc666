from collections.abc import Callable
from pathlib import Path

import pytest

from yolo.errors import RecipeError
from yolo.recipe import prepare
from yolo.recipe.rules.engine import RULES

Write = Callable[..., Path]

WARNINGS = [
    ("zero: {stage: 0, overlap_comm: true}", "zero.overlap_comm: has no effect: at zero.stage 0"),
    ("zero: {reduce_bucket_size: 1000}", "zero.reduce_bucket_size: has no effect"),
    ("zero: {stage: 3, round_robin_gradients: true}", "it applies to stages 1 and 2"),
    ("zero: {stage: 1, stage3_prefetch_bucket_size: 9}", "has no effect: zero.stage is 1"),
    ("zero: {stage: 1, reduce_bucket_size: 5e8}", "more than half of yolov5n's 1,872,157"),
    ("zero: {stage: 2}\ntrain: {gradient_accumulation_steps: 4}", "4 times the bytes"),
    ("zero: {stage: 3}", "stage 3 gathers the parameters in every micro step"),
    (
        "zero: {stage: 1}\nprecision: {dtype: bf16}\ncommunication: {data_type: fp32}",
        "sends gradients in precision",
    ),
    ("optimizer: {type: AdamW}\ntrain: {warmup_momentum: 0.5}", "AdamW has no momentum"),
    ("train: {epochs: 4, warmup_epochs: 3}", "more than half of the run"),
    ("train: {ema: false, ema_decay: 0.9}", "train.ema_decay: has no effect: train.ema is false"),
    ("train: {epochs: 3}\nevaluation: {every_epochs: 5}", "only after the last"),
    (
        "train: {epochs: 3}\ndata: {augmentation: {mosaic: 0.5, mosaic_off_epochs: 3}}",
        "mosaic_off_epochs covers the full run",
    ),
    ("data: {format: yolo, images: x}", "data.yaml says where the images are"),
    ("data: {format: shards, images: x}", "data.images: has no effect: shards hold the images"),
    ("data: {shuffle_buffer: 9}", "images of data.format coco are drawn from the full data set"),
    ("tracking: {wandb: {mode: disabled, project: x}}", "tracking.wandb.mode is disabled"),
    ("deepspeed: {zero_optimization: {sub_group_size: 9}}", "has no effect: zero.stage is 0"),
    (
        "zero: {stage: 1}\ndeepspeed: {zero_optimization: {reduce_scatter: true}}",
        "stages 1 and 2 reduce-scatter nothing",
    ),
    (
        "zero: {stage: 1}\ndeepspeed: {zero_optimization: {zero_quantized_gradients: true}}",
        "zero_quantized_gradients: has no effect",
    ),
    ("zero: {stage: 1}\ndeepspeed: {prescale_gradients: true}", "divides by the world size first"),
    (
        "tracking: {wandb: {mode: online}}\ncluster: {nodes: 2, hostfile: hosts}",
        "passes WANDB_API_KEY to no other machine",
    ),
    ("communication: {data_type: fp16}", "gradients above 65504 become infinite"),
    ("train: {gradient_clipping: 0}", "ruins the weights unnoticed"),
    ("train: {warmup_epochs: 0, warmup_momentum: 0.5}", "train.warmup_epochs is 0"),
    (
        "data: {augmentation: {mosaic: 0, mixup: 0.5}}",
        "data.augmentation.mixup: has no effect: data.augmentation.mosaic is 0",
    ),
    (
        "optimizer: {type: OneBitAdam}\ncommunication: {reducer: overlapped}",
        "communication.reducer: has no effect: OneBitAdam synchronises momentum itself",
    ),
    (
        "communication: {sync_every: 8, reducer: powersgd}",
        "weights are synchronised, not gradients",
    ),
    ("communication: {bucket_size: 9}", "communication.reducer deepspeed is chosen"),
    (
        "optimizer: {type: OneBitAdam}\ncommunication: {powersgd_rank: 4}",
        "it is for communication.reducer powersgd, and optimizer.type OneBitAdam is chosen",
    ),
    ("communication: {sync_every: 4, outer_one_bit: true, data_type: bf16}", "sends signs"),
    (
        "communication: {reducer: overlapped}\ndeepspeed: {prescale_gradients: true}",
        "DeepSpeed averages nothing under communication.reducer overlapped",
    ),
    ("zero: {stage: 1, offload_optimizer: cpu}", "SGD takes torch's own there"),
    (
        "zero: {stage: 3}\ncommunication: {check_weights_every: 5}",
        "check_weights_every: has no effect: at zero.stage 3",
    ),
    (
        "communication: {reducer: powersgd, data_type: bf16}",
        "PowerSGD sends its factors in the gradients' own type",
    ),
    ("communication: {outer_lr: 1.0}", "it is for communication.sync_every above 1"),
    ("communication: {reducer: overlapped, bucket_size: 1e6}", "one bucket at most fills"),
    ("deepspeed: {comms_logger: {enabled: true}}", "makes every collective wait"),
    ("deepspeed: {flops_profiler: {enabled: true}}", "waits for the device at every step"),
]
ERRORS = [
    (
        "model: {variant: n6, image_size: 160}",
        "160 is no multiple of 64, the largest stride of yolov5n6; set it to 128 or 192",
    ),
    (
        "model: {variant: s6, anchors: [[[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]]]}",
        "model.anchors: found anchors for 3 levels, but yolov5s6 has 4",
    ),
    ("optimizer: {momentum: 0}", "needs a momentum above 0"),
    (
        "zero: {stage: 3}\nprecision: {dtype: bf16}\n"
        "deepspeed: {zero_optimization: {zero_quantized_weights: true}}",
        "refuses it with torch_autocast",
    ),
    ("cluster: {backend: mpi, launcher: pdsh}", "needs ranks that mpiexec or srun starts"),
    ("zero: {offload_optimizer: cpu}", "stage 0 offloads nothing"),
    (
        "zero: {stage: 2}\ndeepspeed: {gradient_predivide_factor: 0, zero_optimization: {reduce_scatter: false}}",
        "gradients are divided by it",
    ),
    ("zero: {stage: 2}\ndeepspeed: {prescale_gradients: true}", "refuses it at stage 2"),
    *(
        (f"zero: {{stage: 1}}\noptimizer: {{type: {kind}}}", "set zero.stage to 0, or optimizer")
        for kind in ("OneBitAdam", "ZeroOneAdam", "OneBitLamb")
    ),
    (
        "optimizer: {type: ZeroOneAdam}\nprecision: {dtype: fp16}",
        "set bf16 or fp32 for ZeroOneAdam",
    ),
    (
        "optimizer: {type: OneBitAdam}\ncommunication: {sync_every: 4}",
        "decides itself when ranks synchronise",
    ),
    (
        "zero: {stage: 1}\ncommunication: {reducer: overlapped}",
        "set zero.stage to 0 for overlapped",
    ),
    ("zero: {stage: 2}\ncommunication: {sync_every: 4}", "trains full weights"),
    (
        "model: {sync_batchnorm: true}\ncluster: {backend: nccl}\noptimizer: {type: ZeroOneAdam}",
        "also in local steps",
    ),
    ("optimizer: {type: OneBitLamb, min_coeff: 5, max_coeff: 1}", "5 is above max_coeff 1"),
    ("optimizer: {type: OneBitLamb, factor_min: 5}", "5 is above factor_max 4"),
    ("communication: {reducer: powersgd, powersgd_start_step: 1}", "powersgd_start_step"),
    (
        "precision: {dtype: fp16}\ncommunication: {sync_every: 4}",
        "on one rank and not on another",
    ),
    (
        "zero: {stage: 1}\ndeepspeed: {zero_optimization: {compute_grad_norm: false}}",
        "clipping needs the norm",
    ),
]


@pytest.mark.parametrize(("text", "warning"), WARNINGS)
def test_a_setting_without_effect_is_a_warning_with_its_line(
    write: Write, text: str, warning: str
) -> None:
    prepared = prepare(write(text), world_size=2)
    found = [line for line in prepared.warnings if warning in line]
    assert len(found) == 1, prepared.warnings
    assert "recipe.yaml:" in found[0]


@pytest.mark.parametrize(("text", "error"), ERRORS)
def test_what_cannot_work_is_refused_with_its_line(write: Write, text: str, error: str) -> None:
    with pytest.raises(RecipeError) as caught:
        prepare(write(text), world_size=2)
    assert error in str(caught.value)
    assert "recipe.yaml:" in str(caught.value)


def test_a_sound_recipe_has_no_warnings(write: Write) -> None:
    assert prepare(write("zero: {stage: 1}"), world_size=2).warnings == ()


def test_one_rank_needs_no_exchange(write: Write) -> None:
    text = (
        "communication: {data_type: bf16}\nmodel: {sync_batchnorm: true}\ncluster: {backend: nccl}"
    )
    assert len(prepare(write(text), world_size=1).warnings) == 2
    one_bit = prepare(write("optimizer: {type: OneBitAdam}"), world_size=1).warnings
    assert len(one_bit) == 1
    assert "saves nothing" in one_bit[0]


def test_every_rule_has_a_name_that_says_what_it_knows() -> None:
    names = [rule.__name__ for rule in RULES]
    assert len(names) == len(set(names))
    assert len(names) >= 30
