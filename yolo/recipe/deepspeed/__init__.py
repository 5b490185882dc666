"""The DeepSpeed JSON of a recipe, and keys that are passed through to DeepSpeed."""
