"""Optimizers that synchronise compressed momentum in place of gradients."""
