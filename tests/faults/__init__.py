"""Faults of the machine, made for real: failing storage, full and read-only file systems, a clock that jumps."""
