"""A recipe on the machines of a profile."""

from yolo.planner.profile import ClusterProfile
from yolo.recipe import LoadedRecipe, ResolvedRecipe, prepare_loaded


def resolve_for(profile: ClusterProfile, loaded: LoadedRecipe, *overrides: str) -> ResolvedRecipe:
    """Resolve a recipe, with `overrides` on top, for the profile's machines instead of those in its `cluster` section.

    Raises RecipeError if the recipe cannot be launched there.
    """
    machines = (
        f"cluster.nodes={profile.nodes}",
        f"cluster.processes_per_node={profile.gpus_per_node}",
        f"cluster.backend={profile.backend}",
        f"cluster.accelerator={'cuda' if profile.backend == 'nccl' else 'cpu'}",
    )
    wanted = loaded.with_values(*overrides, *machines)
    return prepare_loaded(wanted, profile.ranks, profile.gpus_per_node).resolved
