"""How fast training, loading and evaluation are: each against the plain baseline, in turns within one run."""
