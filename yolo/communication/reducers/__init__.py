"""Strategies that reduce gradients for an ordinary optimizer."""
