"""Records of a run: metrics.jsonl, Weights & Biases, console, charts, report."""
