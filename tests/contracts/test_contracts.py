"""What this project takes for granted about DeepSpeed, Ray and MLflow beyond their documented interfaces.

Each test fails with a sentence that says what has changed and which file here depends on it. They look at classes and
source text, so that they take seconds and name the cause, where the end-to-end tests would fail somewhere far away.
"""

import dataclasses
import importlib
import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pipelines.session import DATA_THREAD


def source(package: str) -> str:
    """Return all Python source below a package's folder, as one text."""
    folder = Path(importlib.import_module(package).__file__ or "").parent
    return "\n".join(path.read_text("utf-8", errors="replace") for path in sorted(folder.rglob("*.py")))


def has(owner: Any, name: str, library: str, used_by: str) -> None:
    text = inspect.getsource(owner) if inspect.isclass(owner) else ""
    found = hasattr(owner, name) or f"self.{name} =" in text or f"self.{name}:" in text
    assert found, f"{library} {version(library)}: {owner.__name__} has no {name} any more, which {used_by} uses"


@pytest.mark.parametrize(
    ("name", "used_by"),
    [
        ("fp32_partitioned_groups_flat", "zero_layout.py and zero_masters.py"),
        ("fp16_partitioned_groups_flat", "zero_masters.py"),
        ("fp16_groups", "zero_layout.py and zero_masters.py"),
        ("persistent_parameters", "zero_masters.py"),
        ("_partition_all_parameters", "zero_masters.py"),
        ("_reassign_or_swap_out_partitioned_parameters", "zero_masters.py"),
    ],
)
def test_zero_3_keeps_its_masters_where_we_look(name: str, used_by: str) -> None:
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    has(DeepSpeedZeroOptimizer_Stage3, name, "deepspeed", used_by)


def test_zero_1_2_and_bf16_can_publish_their_masters() -> None:
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    has(DeepSpeedZeroOptimizer, "update_lp_params", "deepspeed", "zero_masters.py")
    has(BF16_Optimizer, "update_lp_params", "deepspeed", "zero_masters.py")
    for wrapper in (DeepSpeedZeroOptimizer, BF16_Optimizer):
        has(wrapper, "clip_grad", "deepspeed", "engine.py (no clipping while g_M is captured)")


def test_fragments_of_parameters_say_where_their_master_lies() -> None:
    from deepspeed.utils import mixed_precision_linkage, tensor_fragment

    text = inspect.getsource(mixed_precision_linkage)
    said = f"deepspeed {version('deepspeed')}: `param._hp_mapping` is not set any more, which zero_layout.py reads"
    assert "._hp_mapping = " in text, said
    names = {field.name for field in dataclasses.fields(tensor_fragment)}
    missing = {"lp_fragment_address", "hp_fragment_address", "hp_fragment"} - names
    assert not missing, f"deepspeed {version('deepspeed')}: tensor_fragment lacks {missing}, read by zero_layout.py"


def test_zero_3_parameters_say_how_they_are_cut() -> None:
    from deepspeed.runtime.zero import partition_parameters

    text = inspect.getsource(partition_parameters)
    for name in ("ds_shape", "ds_numel", "ds_process_group", "partition_numel"):
        said = f"deepspeed {version('deepspeed')}: parameters have no {name} any more, which zero_layout.py reads"
        assert f"param.{name} = " in text or f"p.{name} = " in text, said


def test_engine_tells_whether_a_step_was_applied_and_gathers_weights() -> None:
    from deepspeed.runtime.engine import DeepSpeedEngine

    names = ("was_step_applied", "_zero3_consolidated_16bit_state_dict", "save_checkpoint", "load_checkpoint")
    for name in (*names, "global_steps", "global_samples", "skipped_steps"):
        has(DeepSpeedEngine, name, "deepspeed", "engine.py")
    parameters = inspect.signature(DeepSpeedEngine.save_checkpoint).parameters
    assert {"tag", "save_latest"} <= set(parameters), "DeepSpeed's save_checkpoint has other arguments (engine.py)"


def test_placement_groups_and_actors_are_known_to_the_control_store() -> None:
    from ray._private.state import GlobalState
    from ray.core.generated import gcs_pb2

    group: Any = vars(gcs_pb2)["PlacementGroupTableData"]
    names = {field.name for field in group.DESCRIPTOR.fields}
    missing = {"placement_group_id", "creator_job_id", "creator_actor_id", "state"} - names
    assert not missing, f"ray {version('ray')}: a placement group does not tell its {missing} (orphans.py)"
    for name in ("actor_table", "_connect_and_get_accessor"):
        has(GlobalState, name, "ray", "orphans.py")


def test_ray_train_tells_callbacks_of_reports() -> None:
    from ray.train import UserCallback
    from ray.tune.integration.ray_train import TuneReportCallback

    for owner in (UserCallback, TuneReportCallback):
        found = list(inspect.signature(owner.after_report).parameters)
        said = f"ray {version('ray')}: {owner.__name__}.after_report takes {found}; search.py overrides it"
        assert found == ["self", "run_context", "metrics", "checkpoint"], said


@pytest.mark.parametrize(
    ("name", "package", "used_by"),
    [
        ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "ray.train.v2", "trainer.py"),
        ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "ray.train.v2", "pipelines/session.py"),
        ("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "ray._private.ray_constants", "pipelines/interrupts.py"),
        ("TUNE_DISABLE_SIGINT_HANDLER", "ray.tune", "search.py"),
        ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "ray.tune", "search.py"),
        ("RAY_AIR_NEW_OUTPUT", "ray.tune", "search.py"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "mlflow.environment_variables", "mlflow_client.py"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "mlflow.environment_variables", "mlflow_client.py"),
        ("DS_ACCELERATOR", "deepspeed.accelerator", "pipelines/__init__.py"),
    ],
)
def test_environment_variables_still_mean_something(name: str, package: str, used_by: str) -> None:
    module = importlib.import_module(package)
    plain = hasattr(module, "__path__")
    text = source(package) if plain else inspect.getsource(module)
    library = package.partition(".")[0]
    assert name in text, f"{library} {version(library)} does not read {name} any more, which {used_by} sets"


def test_ray_data_takes_blocks_without_a_task() -> None:
    import ray.data

    text = inspect.getsource(ray.data.from_blocks)
    found = "from_block(block)" in text and ".remote(" not in text
    said = "ray.data.from_blocks no longer describes blocks in its own process; streams.py takes it for small sets"
    assert found, f"ray {version('ray')}: {said}, because a task would start a process"


def test_ray_data_works_in_threads_of_a_known_name() -> None:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    found = f'thread_name = f"{DATA_THREAD}-' in inspect.getsource(StreamingExecutor.__init__)
    said = f"Ray Data's threads are not named {DATA_THREAD} any more; pipelines/session.py waits for them"
    assert found, f"ray {version('ray')}: {said} before it leaves Ray, which they need"


def test_tune_calls_back_where_the_book_is_kept() -> None:
    from ray import tune

    for name in ("start", "result", "complete", "recover", "error"):
        has(tune.Callback, f"on_trial_{name}", "ray", "search.py")
    for name in ("on_step_end", "on_experiment_end"):
        has(tune.Callback, name, "ray", "search.py")


def test_registry_has_aliases_and_logged_models() -> None:
    from mlflow import MlflowClient

    for name in (
        "set_registered_model_alias",
        "get_model_version_by_alias",
        "create_logged_model",
        "log_model_artifacts",
        "finalize_logged_model",
        "log_outputs",
    ):
        has(MlflowClient, name, "mlflow", "registry.py, promotion.py and mlflow_entries.py")


def test_mlflow_makes_the_tables_of_a_store_by_a_function_of_its_own() -> None:
    from mlflow.store.db import utils

    has(utils, "_initialize_tables", "mlflow", "mlflow_client.py")


def test_mlflow_names_the_errors_that_are_told_apart() -> None:
    from mlflow.protos import databricks_pb2

    for name in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        said = f"mlflow {version('mlflow')} has no error code {name} (mlflow_client.py, tracking.py)"
        assert hasattr(databricks_pb2, name), said
