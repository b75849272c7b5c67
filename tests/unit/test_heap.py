"""Freed memory is used again without a page fault; in a process of its own, which it changes for good."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from cpl_ray.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults()
mapped = faults()
kept = keep_freed_memory()
for _ in range(4):
    faults()
print(int(kept), mapped, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults as Linux counts them")
def test_a_buffer_of_64_mb_is_taken_again_without_faults() -> None:
    said = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True).stdout
    kept, mapped, again = map(int, said.split())
    if kept:  # a glibc
        assert again * 10 <= mapped
