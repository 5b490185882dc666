"""Measuring a cluster for the planner, and verifying a plan by running it."""
