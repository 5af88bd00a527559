"""A stand-in for a cluster's API, as far as Helm needs one to install a chart: it answers what exists and keeps what is created."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KINDS = {
    "v1": ["ConfigMap", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "monitoring.coreos.com/v1": ["ServiceMonitor"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "policy/v1": ["PodDisruptionBudget"],
}


def plural(kind: str) -> str:
    name = kind.lower()
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


class Cluster(ThreadingHTTPServer):
    """Attributes: `created`, the objects that were created, oldest first, without Helm's own records; `version`, what it says it is."""

    def __init__(self, version: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.version = version
        self.created: list[dict[str, Any]] = []

    def kubeconfig(self, folder: Path) -> str:
        """The path of a file that points clients here."""
        file = folder / "kubeconfig"
        named = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server_address[1]}"}}
        context = {"name": "here", "context": {"cluster": "here", "user": "here"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "here", "clusters": [named]}
        file.write_text(json.dumps({**config, "contexts": [context], "users": [{"name": "here", "user": {}}]}))
        return str(file)


@contextmanager
def serve(version: str) -> Iterator[Cluster]:
    with Cluster(version) as cluster:
        thread = threading.Thread(target=cluster.serve_forever, daemon=True)
        thread.start()
        try:
            yield cluster
        finally:
            cluster.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def answer(self, status: int, body: dict[str, Any]) -> None:
        self.send(status, json.dumps(body).encode(), "application/json")

    def send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/version":
            major, minor, _ = self.server.version.split(".")
            self.answer(200, {"major": major, "minor": minor, "gitVersion": f"v{self.server.version}"})
        elif path == "/api":
            self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            self.answer(
                200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(v) for v in KINDS if "/" in v]}
            )
        elif (version := path.removeprefix("/apis/").removeprefix("/api/")) in KINDS:
            self.answer(200, {"kind": "APIResourceList", "groupVersion": version, "resources": resources(version)})
        elif path.endswith("/secrets"):
            self.answer(200, {"kind": "SecretList", "apiVersion": "v1", "items": []})
        else:
            self.answer(
                404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            )

    def store(self, status: int) -> None:
        """Helm's own records come as protocol buffers, the chart's objects as JSON; both are given back as they came."""
        content, kind = self.rfile.read(int(self.headers["content-length"])), self.headers["content-type"]
        if kind == "application/json" and status == 201:
            self.server.created.append(json.loads(content))
        self.send(status, content, kind)

    def do_POST(self) -> None:
        self.store(201)

    def do_PUT(self) -> None:
        self.store(200)


def group(version: str) -> dict[str, Any]:
    served = {"groupVersion": version, "version": version.split("/")[1]}
    return {"name": version.split("/", maxsplit=1)[0], "versions": [served], "preferredVersion": served}


def resources(version: str) -> list[dict[str, Any]]:
    verbs = ["create", "get", "list", "patch", "update"]
    return [{"name": plural(kind), "kind": kind, "namespaced": True, "verbs": verbs} for kind in KINDS[version]]
