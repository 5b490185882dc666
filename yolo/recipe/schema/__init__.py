"""The sections and keys of a recipe."""
