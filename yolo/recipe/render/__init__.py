"""A resolved recipe as YAML, and the reference of all keys."""
