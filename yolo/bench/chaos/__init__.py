"""Chaos: runs on an emulated cluster that are killed, cut off, starved of disk and fed NaN, and must end as if not."""
