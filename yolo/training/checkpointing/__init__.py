"""Checkpoints: atomic, verified, valid for any number of ranks."""
