"""Predict what a recipe costs on a cluster and which strategy costs least, without torch and without a GPU."""
