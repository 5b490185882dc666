"""How fast training, loading and evaluation are: each against the plain baseline, alternating within one run."""
