"""Data sets as tar shards: writing, streaming, unpacking."""
