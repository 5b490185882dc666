"""The DeepSpeed JSON of a recipe, and DeepSpeed's own keys."""
