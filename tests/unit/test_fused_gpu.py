"""The step for GPUs without one: Triton's interpreter gives the eager bits, and every form compiles for some GPUs."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from cpl_ray import fused_gpu  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
GPUS = [*(GPUTarget("cuda", capability, 32) for capability in (75, 80, 90)), GPUTarget("hip", "gfx942", 64)]
POINTERS = {"counts": "*i64"} | dict.fromkeys(("plus_plane", "minus_plane", "conflict_plane", "flips_plane"), "*u8")
TENSORS = ("param", "gradient", "first", "second", "signed")


def test_interpreted() -> None:
    tests = Path(__file__).with_name("interpreted_gpu.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^11 passed", result.stdout, re.MULTILINE), result.stdout


@pytest.mark.parametrize("gpu", GPUS, ids=str)
def test_every_form_compiles_and_rounds_as_written(gpu: Any) -> None:
    masked = fused_gpu.MASKED.value
    for num_moments, decay_form, scaled, form, marked in product(range(3), range(3), (False, True), range(3), (0, 1)):
        if marked and form != masked:
            continue
        fixed = {
            "num_moments": num_moments,
            "decay_form": decay_form,
            "scaled": scaled,
            "form": form,
            "marked": bool(marked),
        }
        code = compiled(fused_gpu.step, gpu, fixed | {"size": fused_gpu.SIZE}, fused_gpu.OPTIONS)
        if gpu.backend == "cuda":
            adam = num_moments == 2
            # once per element of a thread: theta, decay if any, and Adam's two moments
            fused_by = len(re.findall(r"fma\.rn\.f32", code)) / 8
            assert fused_by == 1 + (decay_form > 0) + 2 * adam, fixed
            assert len(re.findall(r"div\.rn\.f32", code)) == len(re.findall(r"sqrt\.rn\.f32", code)) == 8 * adam
            assert not re.search(r"(div|sqrt)\.(approx|full)", code)
    assert compiled(fused_gpu.signs_of, gpu, {"size": fused_gpu.SIZE}, fused_gpu.OPTIONS)


def compiled(function: Any, gpu: Any, fixed: dict[str, Any], options: dict[str, Any]) -> str:
    """Compile down to what the GPU runs; return the assembly."""
    kinds = POINTERS | dict.fromkeys(TENSORS, "*fp32") | {"numel": "i64"}
    signature = {name: "constexpr" if name in fixed else kinds.get(name, "fp32") for name in function.arg_names}
    source = ASTSource(function, signature, {(function.arg_names.index(name),): value for name, value in fixed.items()})
    made = triton.compile(source, target=gpu, options=options)
    binary, text = ("cubin", "ptx") if gpu.backend == "cuda" else ("hsaco", "amdgcn")
    assert len(made.asm[binary]) > 0
    return str(made.asm[text])
