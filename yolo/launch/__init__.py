"""Start the ranks of a run, watch them, restart them after failures. Never imports torch."""
