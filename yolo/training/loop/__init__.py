"""The training step, the loop over epochs, and what follows a step."""
