"""What a run is made of: a checkpoint goes on only in a run that it fits."""

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
"""And `optimizer` but for its lr: with another the rest of the run would be another run's."""
MUST_STAY_WITHIN_EPOCH = ("data.format", "train.seed")
"""Or the rest of the epoch would hold other images than were left of it."""
AND_OF_SHARDS = (
    *("data.workers", "data.shuffle_buffer", "train.micro_batch"),
    "data.shards",  # not of the recipe: which shards they are
)
"""Each worker of each rank streams its own shards."""
MAY_CHANGE_UNSAID = ("description", "tracking.", "checkpoint.", "cluster.", "communication.timeout")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a run is made of, by names that a user knows."""

    settings: dict[str, Any]
    """Every value of the resolved recipe by its dotted key, as JSON has it; and `data.shards`, a digest of their index."""
    class_names: list[str]
    training_images: int
    """With the seed they decide which images a step sees: a position in another data set means nothing."""
    world_size: int

    @classmethod
    def of(
        cls, recipe: Recipe, train: DetectionDataset | Shards, ranks: DistributedContext
    ) -> "RunConfig":
        """The identity of the run at hand."""
        values = flatten(recipe.model_dump(mode="json"))
        settings = {".".join(key): value for key, value in values}
        if isinstance(train, Shards):
            index = train.index.model_dump_json().encode()
            settings["data.shards"] = hashlib.sha256(index).hexdigest()[:12]
        return cls(settings, list(train.class_names), len(train), ranks.world_size)

    def must_equal(self, is_within_epoch: bool) -> dict[str, Any]:
        """What another identity must have alike, by its name in a message."""
        within: tuple[str, ...] = MUST_STAY_WITHIN_EPOCH if is_within_epoch else ()
        fixed: dict[str, Any] = {
            "classes": self.class_names,
            "number of training images": self.training_images,
        }
        if is_within_epoch and self.settings["data.format"] == "shards":
            within += AND_OF_SHARDS
            fixed["number of ranks"] = self.world_size
        chosen = {
            key: value for key, value in self.settings.items() if _must_stay(key) or key in within
        }
        return chosen | fixed

    def incompatibility(self, saved: "RunConfig", is_within_epoch: bool) -> str | None:
        """Why a checkpoint saved by another run does not fit this one, in words; None where it does."""
        before, now = saved.must_equal(is_within_epoch), self.must_equal(is_within_epoch)
        # An optimizer of another type has other parameters; its type says all.
        order = sorted(before.keys() | now.keys(), key=lambda key: (key != "optimizer.type", key))
        for what in order:
            if before.get(what) != now.get(what):
                return (
                    f"was saved with {what} {before.get(what)}, and this run has {now.get(what)}; go on with "
                    f"{before.get(what)}, or start anew with checkpoint.resume=never"
                )
        return None

    def changes_since(self, saved: "RunConfig") -> list[str]:
        """What may differ from the checkpoint's run and does, a line each."""
        changes = [
            f"{key} is now {asked}; the checkpoint was saved with {before}"
            for key, asked in self.settings.items()
            if (before := saved.settings.get(key, "not known")) != asked
            and not key.startswith(MAY_CHANGE_UNSAID)
        ]
        if self.world_size != saved.world_size:
            changes.append(
                f"{self.world_size} ranks go on with a checkpoint of {saved.world_size}; images keep their order"
            )
        return changes


def _must_stay(key: str) -> bool:
    return key in MUST_STAY or (key.startswith("optimizer.") and key != "optimizer.lr")
