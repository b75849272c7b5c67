"""Collaborative Parameter Learning (arXiv 2601.21577) on Ray, DeepSpeed and MLflow."""

import os

# torch reads it at its first allocation: buffers of gradients in pages of 2 MB where Linux has them, see docs/speed.md
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
