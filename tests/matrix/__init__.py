"""The dependencies at both ends of the ranges that pyproject.toml states (see docs/upgrading.md)."""
