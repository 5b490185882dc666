"""The DeepSpeed engine, the process group, ZeRO's shards."""
