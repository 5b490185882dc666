"""Backends of `torch.distributed` beyond those that pip's torch has, and which of all this machine can run."""
