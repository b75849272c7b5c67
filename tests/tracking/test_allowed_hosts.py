"""A server of cluster/mlflow_server.sh answers to the names it was given, and to no other."""

import sys
from pathlib import Path

import requests
from mlflow.server.security_utils import get_default_allowed_hosts, is_allowed_host_header

from tests.tracking.runs import Server

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "mlflow_server.sh"


class NamedServer(Server):
    """A server which clients call by a name, as behind a DNS entry or a service of Kubernetes."""

    def command(self) -> list[str]:
        return ["bash", str(SCRIPT)]

    def environment(self) -> dict[str, str]:
        own = {"BACKEND_STORE_URI": f"sqlite:///{self.folder}/server.db", "WORKERS": "1", "PORT": str(self.port)}
        own |= {"ARTIFACTS_DESTINATION": str(self.folder / "artifacts")}
        own |= {"SERVER_ALLOWED_HOSTS": f"mlflow.example:{self.port},localhost:{self.port}"}
        return (
            super().environment() | {f"MLFLOW_{key}": value for key, value in own.items()} | {"PYTHON": sys.executable}
        )

    def status(self, host: str) -> int:
        """Return the HTTP status of a search for experiments that is asked of `host`."""
        body = {"max_results": 1}
        url = f"{self.uri}/api/2.0/mlflow/experiments/search"
        return requests.post(url, json=body, headers={"Host": host}, timeout=30).status_code


def test_server_answers_to_its_name_only(tmp_path: Path) -> None:
    server = NamedServer(tmp_path)
    try:
        server.start()
        assert server.status(f"mlflow.example:{server.port}") == 200
        assert server.status(f"localhost:{server.port}") == 200
        assert server.status(f"elsewhere.example:{server.port}") == 403
        assert server.status("mlflow.example") == 403  # the port is a part of it
    finally:
        server.kill()


def test_without_names_mlflow_refuses_every_dns_name() -> None:
    """Why the script asks for them."""
    hosts = get_default_allowed_hosts()
    assert is_allowed_host_header(hosts, "127.0.0.1:5000")
    assert is_allowed_host_header(hosts, "10.1.2.3:5000")
    assert not is_allowed_host_header(hosts, "mlflow.example:5000")
    assert not is_allowed_host_header(hosts, "mlflow.default.svc.cluster.local:5000")
