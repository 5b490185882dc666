"""What is written down and shown about a run: the log, Weights & Biases, the console, charts, the report."""
