"""Samples, their order, and the worker processes that load them."""
