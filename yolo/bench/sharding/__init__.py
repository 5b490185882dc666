"""Sharding by sample, by feature and by both, predicted and measured."""
