"""Collaborative Parameter Learning (arXiv 2601.21577) on Ray, DeepSpeed and MLflow."""

__version__ = "0.1.0"
