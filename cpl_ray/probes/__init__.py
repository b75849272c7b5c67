"""Probes: measurements made inside the training loop, which change nothing of it."""
