"""Imports flow one way: a module imports its own layer or lower, and each heavy library has its few importers.

A module of cpl_ray that is not listed here is pure (layer 0) and imports none of the heavy libraries, not even inside
a function. So a new module is free until it needs one; then it has to be given its place here.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 300

LAYERS = {
    1: {
        "model",
        "vision",
        "batches",
        "forward",
        "shared_prefix",
        "likelihood",
        "generate",
        "predict",
        "adapters",
        "methods.build",
        "proxy_writer",
        "skeleton",
        "activations",
        "item_sizes",
        "forecast",
    },
    2: {"engine", "zero_layout", "zero_masters"},
    3: {
        "step",
        "passes",
        "guard",
        "loop",
        "calibration",
        "checkpoint",
        "evaluation",
        "probes.base",
        "probes.build",
        "probes.classes",
        "probes.gauge",
        "probes.similarity",
        "probes.stability",
        "probes.taylor",
    },
    4: {
        "actor_pool",
        "network",
        "scoring",
        "drafting",
        "streams",
        "worker",
        "trainer",
        "search",
        "losses",
        "orphans",
        "shared_storage",
        "mlflow_client",
        "mlflow_entries",
        "tracking",
        "delivery",
        "registry",
        "promotion",
        "rescoring",
        "qa_model",
    },
    5: {
        "figures",
        "card",
        "compare_figures",
        "report",
        "report_charts",
        "report_compare",
        "report_questions",
        "report_run",
        "report_source",
        "report_svg",
        "report_sweep",
        "report_sweep_charts",
        "sweep_figures",
        "figures_generalisation",
        "figures_mastered_size",
        "figures_optimizers",
        "figures_consumption",
        "figures_sequential",
        "figures_similarity",
        "figures_stability",
        "figures_taylor",
        "figures_transfer",
        "study_canvas",
    },
}
# layer 0, on tensors: takes tensors and numbers, knows no model and no configuration
TENSORS = {"rule", "loss", "optimizer", "mastered", "wrapped", "collectives", "layout", "layer_shares"}
TENSORS |= {
    "sampling",
    "estimators",
    "gradients",
    "masks",
    "orthogonal",
    "state_bytes",
    "live_bytes",
    "fused",
    "fused_form",
    "fused_gpu",
    "kept_states",
    "compiled",
    "vectors",
    "bits",
}

# of the whole project, tests aside; "pipelines" stands for any file there
IMPORTERS = {
    "deepspeed": {"engine"},
    "peft": {"adapters"},
    "triton": {"fused_gpu"},
    "ray": {
        "actor_pool",
        "network",
        "rescoring",
        "streams",
        "worker",
        "trainer",
        "search",
        "losses",
        "orphans",
        "shared_storage",
        "pipelines",
    },
    "mlflow": {"mlflow_client", "mlflow_entries", "tracking", "delivery", "registry", "promotion", "qa_model"},
}
HEAVY = {"torch", "ray", "deepspeed", "mlflow", "transformers", "peft", "accelerate", "matplotlib", "lm_eval"}

LIBRARY = sorted((ROOT / "cpl_ray").rglob("*.py"))
PIPELINES = sorted((ROOT / "pipelines").rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the full name of everything that `path` imports, anywhere in the file, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            assert node.module is not None
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def library_module(name: str) -> str | None:
    """Return the module of cpl_ray that an import of `name` loads; None for other packages."""
    package, *parts = name.split(".")
    if package != "cpl_ray":
        return None
    found = (".".join(parts[:end]) for end in (2, 1) if (ROOT / package / f"{'/'.join(parts[:end])}.py").exists())
    return next(found, None)


def module_of(path: Path) -> str:
    """Return the name of a file of cpl_ray without the package: `rule`, `methods.base`."""
    return ".".join(path.relative_to(ROOT / "cpl_ray").with_suffix("").parts)


def on_tensors(module: str) -> bool:
    """Tell whether a module of layer 0 takes tensors."""
    return module in TENSORS or (module.startswith("methods.") and layer(module) == 0)


def layer(module: str) -> int:
    """Return the layer of a module of cpl_ray."""
    return next((number for number, modules in LAYERS.items() if module in modules), 0)


@pytest.mark.parametrize("path", LIBRARY, ids=module_of)
def test_imports_go_down_or_sideways(path: Path) -> None:
    wrong = []
    for name, line in imports(path):
        target = library_module(name)
        if target is not None and layer(target) > layer(module_of(path)):
            wrong.append(
                f"cpl_ray/{path.name}:{line} (layer {layer(module_of(path))}) "
                f"imports cpl_ray/{target}.py (layer {layer(target)})"
            )
        if name.split(".")[0] == "pipelines":
            wrong.append(f"cpl_ray/{path.name}:{line} imports {name}; the library knows no command line")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", LIBRARY, ids=module_of)
def test_layer_0_is_pure(path: Path) -> None:
    if layer(module_of(path)) != 0:
        return
    allowed = {"torch"} if on_tensors(module_of(path)) else set()
    wrong = [
        f"cpl_ray/{path.name}:{line} (layer 0) imports {name}; if it must, give it a higher layer in this test"
        for name, line in imports(path)
        if name.split(".")[0] in HEAVY - allowed
    ]
    if not on_tensors(module_of(path)):
        wrong += [
            f"cpl_ray/{path.name}:{line} imports cpl_ray/{target}.py, which needs torch"
            for name, line in imports(path)
            if (target := library_module(name)) is not None and on_tensors(target)
        ]
    else:
        wrong += [
            f"cpl_ray/{path.name}:{line} imports cpl_ray/config.py; it takes numbers, not the configuration"
            for name, line in imports(path)
            if library_module(name) == "config"
        ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", LIBRARY + PIPELINES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_heavy_libraries_have_few_importers(path: Path) -> None:
    place = module_of(path) if path in LIBRARY else "pipelines"
    wrong = [
        f"{path.parent.name}/{path.name}:{line} imports {name}; only these may: {', '.join(sorted(allowed))}"
        for name, line in imports(path)
        if (allowed := IMPORTERS.get(name.split(".")[0])) is not None and place not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_python_files_are_short() -> None:
    folders = ("cpl_ray", "pipelines", "tests", "benchmarks", "cluster", "docs")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > len(LIBRARY)
    long = [f"{path}: {length} lines" for path, length in lengths.items() if length > MAX_LINES]
    assert not long, f"files of more than {MAX_LINES} lines: " + "; ".join(long)


def test_no_attic_modules() -> None:
    forbidden = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    found = [path.name for path in LIBRARY + PIPELINES if forbidden & set(path.stem.split("_"))]
    assert not found, f"name what it holds: {found}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import ray.data", "ray.data"),
        ("def f() -> None:\n    from torch import nn", "torch.nn"),
        ("if True:\n    import deepspeed as ds", "deepspeed"),
    ],
)
def test_imports_are_found_anywhere(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert [name for name, _ in imports(path)] == [expected]
