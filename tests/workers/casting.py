"""What DeepSpeed's own 16-bit sections do to BatchNorm, beside torch_autocast: why `precision` offers the latter only."""

import json
from typing import Any

import deepspeed
import torch
from torch import nn

from tests.workers.arguments import worker_arguments
from yolo.recipe import deepspeed_config, prepare
from yolo.training.engine.build import parameter_groups
from yolo.training.engine.distributed import init_distributed, shutdown_distributed

CAST = {"bf16": {"enabled": True}}
CASE_CONFIGS: dict[str, dict[str, Any]] = {
    "cast": CAST,
    "cast_with_buffers": CAST | {"data_types": {"buffer_dtype": "bf16"}},
    "autocast": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
}
MEAN = 3.0
STEPS = 400


def main() -> None:
    parser = worker_arguments()
    parser.add_argument("case", choices=CASE_CONFIGS)
    options = parser.parse_args()
    recipe = prepare(
        "recipes/demo.yaml", ["train.global_batch=4", "cluster.threads_per_process=1"], 1
    ).resolved.recipe
    init_distributed(recipe)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, 1e-3, 0.03))
    nn.init.constant_(model[0].weight, 1 / 3)  # every channel's mean is the input's
    config = deepspeed_config(recipe) | CASE_CONFIGS[options.case]
    config.pop("communication_data_type")
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=parameter_groups(model),
        config=config,
        dist_init_required=False,
    )
    found: dict[str, Any] = {"error": "", "relative_error_of_the_running_mean": None}
    images = MEAN + torch.randn(4, 3, 16, 16)
    is_cast = options.case != "autocast"
    try:
        for _ in range(STEPS):
            engine(images.bfloat16() if is_cast else images)
        running = model[1].running_mean.float()
        found["relative_error_of_the_running_mean"] = float(
            (running / images.mean() - 1).abs().max()
        )
    except RuntimeError as error:
        found["error"] = str(error)
    options.out.write_text(json.dumps(found))


main()
shutdown_distributed()
