"""Cost model: what a step computes, sends and holds in memory."""
