"""Benchmarks, most of them on a cluster emulated on one machine. No product code imports this package."""
