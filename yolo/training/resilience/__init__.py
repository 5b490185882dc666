"""Anomalies, hangs, preemption, fencing, and what a rank leaves behind."""
