"""Measure the loader's rate where each rank has a data folder of its own; what every rank returns."""

import json

from tests.workers.arguments import worker_arguments
from yolo.calibration.loader_rate import loader_images_per_second
from yolo.recipe import prepare
from yolo.training.engine.distributed import (
    all_gather_object,
    init_distributed,
    shutdown_distributed,
)

SETTINGS = ("model.image_size=64", "train.global_batch=4", "data.cache=none")


def main() -> None:
    parser = worker_arguments()
    parser.add_argument("folders", nargs="+", help="one per rank")
    options = parser.parse_args()
    ranks = init_distributed(prepare("recipes/demo.yaml", SETTINGS, 2, 2).resolved.recipe)
    settings = (*SETTINGS, f"data.root={options.folders[ranks.rank]}")
    recipe = prepare("recipes/demo.yaml", settings, 2, 2).resolved.recipe
    rates = all_gather_object(ranks, loader_images_per_second(recipe, ranks))
    if ranks.is_main:
        options.out.write_text(json.dumps(rates))
    shutdown_distributed()


main()
