"""Read recipe files: YAML, inheritance, overrides, validation errors."""
