"""Ray really serves the series that docs/observability.md names, while it trains and streams."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.ray.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
HANG_S = 600
# a session of its own: what was measured in a process that has used Ray before would stay there
SESSION = """
import http.client, json, re, sys, time, urllib.request
from pathlib import Path

wanted, folder, port = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
import ray
ray.init(num_cpus=2, include_dashboard=False, _metrics_export_port=port, log_to_driver=False)
import ray.data, ray.train
from ray.train.torch import TorchTrainer

seen = {}
enough = Path(folder) / "enough"

def look():
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    seen.update(re.findall(r"^# TYPE (\\S+) (\\S+)$", text, re.MULTILINE))

def work(settings):
    for batch in ray.train.get_dataset_shard("rows").iter_batches(batch_size=1):
        ray.train.report({})
        if Path(settings["enough"]).exists():
            return
        time.sleep(0.5)

import threading
def follow():
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and set(wanted) - set(seen):
        try:
            look()
        except (OSError, http.client.HTTPException):  # not served yet
            pass
        time.sleep(1)
    enough.touch()
thread = threading.Thread(target=follow)
thread.start()
rows = ray.data.range(2000, override_num_blocks=50).map(lambda row: row)
run = ray.train.RunConfig(storage_path=folder, name="metrics")
one = ray.train.ScalingConfig(num_workers=1)
TorchTrainer(work, train_loop_config={"enough": str(enough)}, datasets={"rows": rows}, scaling_config=one,
             run_config=run).fit()
thread.join()
print(json.dumps(seen))
"""


def test_series_of_the_page_are_served(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "observability.md").read_text("utf-8")
    table = page.partition("\n| series | kind |")[2].partition("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    wanted = {name: kind for names, kind, _ in rows for name in re.findall(r"`(\w+)`", names)}
    assert len(wanted) > 15
    script = tmp_path / "session.py"
    script.write_text(SESSION)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, str(script), json.dumps(list(wanted)), str(tmp_path), str(free_port())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert {name: seen.get(name) for name in wanted} == wanted
