"""Benchmarks: ratios measured side by side in one process, medians with spread and full provenance; never a test."""
