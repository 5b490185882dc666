"""How ranks synchronise: strategies, 1-bit optimizers, gradient compression, and the traffic meter."""
