"""The command line: one verb per file, thin over cpl_ray."""

import os
import time

STARTED = time.monotonic()
"""When the command began, before anything heavy was imported."""

# before anything imports these libraries: no telemetry, and no warning about missing GPUs from a driver that needs none
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
