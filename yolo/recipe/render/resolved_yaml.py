"""Write a resolved recipe as YAML or JSON: every value, and where it came from."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from yolo.recipe.deepspeed.config import deepspeed_config, weight_decay
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.fields import Key


def flatten(values: Mapping[str, Any], key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every plain value with its key, in the recipe's order; lists count as plain."""
    for word, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, (*key, word))
        else:
            yield (*key, word), value


def effective_yaml(resolved: ResolvedRecipe) -> str:
    """The resolved recipe as YAML that can be trained again, each value with its origin as a comment."""
    lines = [f"# {resolved.name}, resolved for {resolved.world_size} ranks"]
    open_sections: Key = ()
    for key, value in flatten(resolved.recipe.model_dump(mode="json")):
        sections = key[:-1]
        for depth, section in enumerate(sections):
            if open_sections[: depth + 1] != sections[: depth + 1]:
                lines.append(f"{'  ' * depth}{section}:")
        open_sections = sections
        setting = f"{'  ' * len(sections)}{key[-1]}: {json.dumps(value)}"
        lines.append(f"{setting:<50}  # {resolved.origin(key)}")
    return "\n".join(lines) + "\n"


def effective_json(resolved: ResolvedRecipe) -> dict[str, Any]:
    """What `yolo config --json` prints: the recipe, DeepSpeed's JSON, and each value's origin."""
    recipe = resolved.recipe.model_dump(mode="json")
    return {
        "recipe": recipe,
        "deepspeed": deepspeed_config(resolved.recipe),
        "world_size": resolved.world_size,
        "origins": {".".join(key): str(resolved.origin(key)) for key, _ in flatten(recipe)},
    }


def arithmetic(resolved: ResolvedRecipe) -> list[str]:
    """Derived numbers as formulas that the reader can check."""
    recipe = resolved.recipe
    train = recipe.train
    lines = [
        f"global_batch {train.global_batch} = micro_batch {train.micro_batch} x "
        f"gradient_accumulation_steps {train.gradient_accumulation_steps} x {recipe.sharding.data} ranks"
    ]
    if recipe.optimizer.type == "SGD":
        lines.append(
            f"weight_decay {weight_decay(recipe):g} = {recipe.optimizer.weight_decay:g} x "
            f"global_batch {train.global_batch} / 64"
        )
    return lines
