"""The weights after some steps under several strategies, by the backend that `--backend` names: a hash of each."""

import argparse
import gc
import hashlib
import json
from pathlib import Path

import torch

from yolo.calibration.strategies import STRATEGIES
from yolo.calibration.strategy_timing import job_of
from yolo.calibration.synthetic_step import SyntheticTraining
from yolo.training.engine.distributed import init_distributed, shutdown_distributed
from yolo.training.engine.launched import world_size_from_launcher
from yolo.training.engine.zero_shards import gather_full, local_shard

STEPS = 3
NAMES = (
    *("zero0", "zero0_bf16", "zero1", "zero1_reduce", "zero2", "zero3_persistent", "onebit_adam"),
    *("overlapped", "ddp", "powersgd"),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--backend")
    parser.add_argument("--local_rank")
    options = parser.parse_args()
    job = job_of((1, 64), world_size_from_launcher())
    recipe = job.prepared.with_values(f"cluster.backend={options.backend}").resolved.recipe
    ranks = init_distributed(recipe)
    found = {"backend": torch.distributed.get_backend()}
    for name in NAMES:
        trainer = SyntheticTraining(STRATEGIES[name], job, ranks)
        for _ in range(STEPS):
            trainer.step()
        parameters = list(trainer.engine.module.parameters())
        weights = gather_full(parameters, [local_shard(each) for each in parameters])
        parts = [tensor.detach().numpy().tobytes() for tensor in weights]
        found[name] = hashlib.sha256(b"".join(parts)).hexdigest()
        del trainer, parameters, weights
        gc.collect()
    if ranks.is_main:
        options.out.write_text(json.dumps(found))
    shutdown_distributed()


main()
