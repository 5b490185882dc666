"""Training: the step, the engine, checkpoints, resilience. The only place that calls deepspeed.initialize."""
