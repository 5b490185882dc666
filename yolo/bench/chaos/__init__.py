"""Chaos: runs on an emulated cluster with killed processes, cut links, a full disk and NaN; they must end as if without."""
