"""The cost model: what a step computes, sends and holds in memory."""
