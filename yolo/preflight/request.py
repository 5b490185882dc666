"""What hosts are asked about a recipe: the files that every rank reads, and the folders of images."""

from pathlib import Path

from yolo.data.shards.index import INDEX, shard_location
from yolo.preflight.host_info import ProbeRequest
from yolo.recipe.load.merge import Source
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.data import is_url


def question_of(resolved: ResolvedRecipe, seconds: int) -> ProbeRequest:
    """Of all hosts alike."""
    recipe, root = resolved.recipe, Path(resolved.recipe.data.root)
    named = [str(root / recipe.data.train), str(root / recipe.data.val)]
    if recipe.data.format == "shards":
        places = [shard_location(recipe.data, split) for split in ("train", "val")]
        named = [f"{place}/{INDEX}" for place in places if not is_url(place)]
    if recipe.model.weights is not None:
        named.append(recipe.model.weights)
    folders, splits = [], []
    if recipe.data.format == "yolo":
        splits = [(named[0], "train"), (named[1], "val")]
    elif recipe.data.format == "coco":
        folders = [str(root / recipe.data.images), str(root / recipe.data.val_images)]
    return ProbeRequest(
        files=list(dict.fromkeys([*recipe_files(resolved), *named])),
        folders=list(dict.fromkeys(folders)),
        splits=splits,
        seconds=seconds,
    )


def recipe_files(resolved: ResolvedRecipe) -> list[str]:
    """The recipe, its parents, and the profile of the cluster where that is a file."""
    parents = {
        origin.place.rpartition(":")[0]
        for origin in resolved.loaded.origins.values()
        if origin.source is Source.PARENT
    }
    profile = resolved.recipe.cluster.profile
    profiles = [profile] if profile is not None and Path(profile).is_file() else []
    return [str(resolved.loaded.path), *sorted(parents), *profiles]
