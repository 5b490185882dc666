"""Predicted and measured step times on emulated clusters."""
