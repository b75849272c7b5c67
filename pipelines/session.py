"""Connect to Ray: the cluster that the environment names, else one on this machine for as long as the command runs."""

import importlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cpl_ray.config import Config
from cpl_ray.errors import ClusterError, ConfigError, UserError
from cpl_ray.rundir import runs_folder
from cpl_ray.stopwatch import phase
from pipelines.interrupts import own_sigterm
from pipelines.own_node import OwnNode
from pipelines.own_processes import of_session, see_off

HEAVY = ("cpl_ray.scoring", "cpl_ray.trainer")
"""Modules that jobs need once Ray has started, and that take a second or two to import."""
DATA_THREAD, DATA_END_S = "StreamingExecutor", 10
"""Name of the threads in which Ray Data works, and how long they are waited for."""
_shared = False
_watch: OwnNode | None = None
_own_session: str | None = None
"""The folder of the Ray session that was started here."""


@contextmanager
def one_ray_session() -> Iterator[None]:
    """Let all sessions in the block be one: the first that is needed starts Ray, the end of the block stops it."""
    global _shared
    import ray

    if _shared or ray.is_initialized():
        yield
        return
    _shared = True
    try:
        yield
    finally:
        _shared = False
        with phase("stop Ray"):
            _shut_down()


@contextmanager
def ray_session(
    config: Config, say: Callable[[str], None], *, dashboard: bool = False, storage: bool = True
) -> Iterator[None]:
    """Hold a Ray session; an open one is used and left open.

    `dashboard`: Ray's own state is asked for (a sweep frees what a stopped trial held), which its dashboard serves.
    `storage`: the folder of all runs is tried on every node of a cluster that was there already.

    `RAY_ADDRESS` (also set inside a submitted job) means that cluster. Otherwise a local one is started, with at least
    as many CPU slots as the run's workers ask for: on a laptop, workers beyond the cores simply share them.
    """
    global _watch
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    needed = config.cluster.num_workers * config.cluster.cpus_per_worker
    with phase("start Ray"):
        joins = bool(os.environ.get("RAY_ADDRESS")) or not _start_here(needed, say, dashboard)
        if joins:
            _join()
    _watch = OwnNode()
    if joins:
        slots = ray.cluster_resources().get("CPU", 0.0)
        if slots < needed:
            say(f"waiting: the run asks for {needed:g} CPU slots, the cluster has {slots:g} now")
    try:
        if storage:
            _check_storage(config)
        yield
    finally:
        if not _shared:
            _shut_down()


def _shut_down() -> None:
    """Leave the cluster; if it was started here, end it with all of its processes."""
    global _own_session
    import ray

    deadline = time.monotonic() + DATA_END_S
    for thread in threading.enumerate():
        if thread.name.startswith(DATA_THREAD):  # after Ctrl-C it may still run, and crash without Ray
            thread.join(max(0.0, deadline - time.monotonic()))
    if _watch is not None:
        _watch.close()
    folder, _own_session = _own_session, None
    processes = of_session(folder) if folder else []
    try:
        ray.shutdown()
    finally:
        see_off(processes)


def _join() -> None:
    """Connect to the cluster that the environment names.

    Raises:
        UserError: it cannot be reached, or does not take the token.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS") or "of this machine"
    try:
        with own_sigterm():
            ray.init(logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError as error:
        raise UserError(
            f"the Ray cluster at {address} refuses the token of this client; set RAY_AUTH_MODE=token and the head's "
            f"token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH: {str(error).splitlines()[0]}"
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"the Ray cluster at {address} cannot be reached, or has another token: {str(error).splitlines()[0]}"
        ) from error


def _check_storage(config: Config) -> None:
    """Check that the folder of all runs is the same one on every node, where the cluster has more than one.

    Raises:
        ConfigError: it is not; names the nodes.
    """
    from cpl_ray.shared_storage import check_shared, number_of_nodes

    if number_of_nodes() < 2:
        return
    if problems := check_shared(runs_folder(config)):
        raise ConfigError("run.dir is not on storage that every node shares: " + "; ".join(problems))


def _start_here(needed: float, say: Callable[[str], None], dashboard: bool) -> bool:
    """Start Ray on this machine; False if somebody has started a cluster here with `ray start`, which is then meant."""
    global _own_session
    import ray

    slots = max(os.cpu_count() or 1, math.ceil(needed))
    # a run has about ten processes besides its workers, which on few cores Ray would warn of again and again
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(8, slots)))
    # nobody takes this machine away with notice: the watcher would be one more process that imports everything
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        with _importing(*HEAVY), own_sigterm():
            context: Any = ray.init(
                num_cpus=slots, include_dashboard=dashboard, logging_level=logging.ERROR, log_to_driver=False
            )
            _own_session = str(context.address_info["session_dir"])
    except ValueError as error:
        if "existing cluster" not in str(error):
            raise
        return False
    except Exception as error:  # Ray raises that class itself
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClusterError(f"Ray did not start on this machine: {reason}") from error
    say(f"started Ray on this machine with {slots} CPU slots")
    return True


@contextmanager
def _importing(*modules: str) -> Iterator[None]:
    """Import modules in a thread while the block waits for other processes; what fails is raised where it is used."""

    def work() -> None:
        with suppress(Exception):
            for name in modules:
                importlib.import_module(name)

    thread = threading.Thread(target=work, name="imports")
    thread.start()
    try:
        yield
    finally:
        thread.join()
