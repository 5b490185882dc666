"""Starting the ranks of a run, watching them, and restarting after failures. Never imports torch."""
