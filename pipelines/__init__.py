"""The command line: one verb per file, thin over cpl_ray."""

import gc
import os
import time

STARTED = time.monotonic()
"""When the command began, before anything heavy was imported."""

# importing makes half a million objects that stay, and the collector of cycles would walk over them again and again
gc.set_threshold(50_000, 10, 10)
# before anything imports these libraries: no telemetry, and no warning about missing GPUs from a driver that needs none
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
