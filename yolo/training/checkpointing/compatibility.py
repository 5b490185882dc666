"""Whether a checkpoint fits a run: the settings and data that must be equal to resume from it."""

import hashlib
from dataclasses import dataclass
from typing import Any

from yolo.data.dataset import DetectionDataset
from yolo.data.shards.reader import Shards
from yolo.recipe.render.resolved_yaml import flatten
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.distributed import DistributedContext

MUST_STAY = (
    *("model.variant", "precision.dtype", "train.global_batch"),
    "train.gradient_clipping",
)
"""And `optimizer` except its lr: with others, the rest of the run would belong to another run."""
MUST_STAY_WITHIN_EPOCH = ("data.format", "train.seed")
"""Otherwise the rest of the epoch would hold other images."""
AND_OF_SHARDS = (
    *("data.workers", "data.shuffle_buffer", "train.micro_batch"),
    "data.shards",  # not a recipe key: a digest of the shards' index
)
"""Each worker of each rank streams its own shards."""
NOT_LOGGED = ("description", "tracking.", "checkpoint.", "cluster.", "communication.timeout")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The settings and data of a run, by names that a user knows."""

    settings: dict[str, Any]
    """Every value of the resolved recipe by its dotted key, as JSON; and `data.shards`, a digest of their index."""
    class_names: list[str]
    training_images: int
    """With the seed, it decides which images a step sees: a position in another data set means nothing."""
    world_size: int

    @classmethod
    def of(
        cls, recipe: Recipe, train: DetectionDataset | Shards, ranks: DistributedContext
    ) -> "RunConfig":
        """The configuration of this run."""
        values = flatten(recipe.model_dump(mode="json"))
        settings = {".".join(key): value for key, value in values}
        if isinstance(train, Shards):
            index = train.index.model_dump_json().encode()
            settings["data.shards"] = hashlib.sha256(index).hexdigest()[:12]
        return cls(settings, list(train.class_names), len(train), ranks.world_size)

    @property
    def columns(self) -> int:
        """Ranks that share an image."""
        return int(self.settings.get("sharding.columns", 1))

    def must_equal(self, is_within_epoch: bool) -> dict[str, Any]:
        """What must be equal in both runs, by its name in messages."""
        within: tuple[str, ...] = MUST_STAY_WITHIN_EPOCH if is_within_epoch else ()
        fixed: dict[str, Any] = {
            "classes": self.class_names,
            "number of training images": self.training_images,
        }
        if is_within_epoch and self.settings["data.format"] == "shards":
            within += AND_OF_SHARDS
            fixed["number of ranks"] = self.world_size // self.columns
        chosen = {
            key: value for key, value in self.settings.items() if _must_stay(key) or key in within
        }
        return chosen | fixed

    def incompatibility(self, saved: "RunConfig", is_within_epoch: bool) -> str | None:
        """Why a checkpoint saved by another run does not fit this one; None if it does."""
        before, now = saved.must_equal(is_within_epoch), self.must_equal(is_within_epoch)
        # An optimizer of another type has other parameters; the type is the clearest message.
        order = sorted(before.keys() | now.keys(), key=lambda key: (key != "optimizer.type", key))
        for what in order:
            if before.get(what) != now.get(what):
                return (
                    f"was saved with {what} {before.get(what)}, and this run has {now.get(what)}; resume with "
                    f"{before.get(what)}, or start a new run with checkpoint.resume=never"
                )
        return None

    def changes_since(self, saved: "RunConfig") -> list[str]:
        """What differs from the checkpoint's run and may differ, a line each."""
        changes = [
            f"{key} is now {value}; the checkpoint was saved with {before}"
            for key, value in self.settings.items()
            if (before := saved.settings.get(key, "not known")) != value
            and not key.startswith(NOT_LOGGED)
        ]
        if self.world_size != saved.world_size:
            changes.append(
                f"{self.world_size} ranks resume from a checkpoint of {saved.world_size}; images keep their order"
            )
        return changes


def _must_stay(key: str) -> bool:
    return key in MUST_STAY or (key.startswith("optimizer.") and key != "optimizer.lr")
