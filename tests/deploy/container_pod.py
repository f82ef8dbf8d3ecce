"""
A rendered pod of real containers: the image that deploy/Dockerfile builds, run by podman with the manifest's own
command, environment, user, root, capabilities, volumes and ports, in one network that has loopback only.

vLLM and the client are played by Python scripts in the same image. What podman's own `kube play` lacks is done here:
native sidecars, the group of volumes (fsGroup), probes without curl, hooks, and the order of the end.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.deploy.engine import Engine
from tests.deploy.manifests import Manifests
from tests.deploy.volumes import Secrets, Volumes

#: vLLM as far as the proxy and the hooks ask it: it streams until the file /control/go is there, and dies of SIGTERM.
VLLM = """
import http.server, json, os, pathlib, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
running = 0
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def whole(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def do_GET(self):
        count = "".join(f'vllm:num_requests_{what}{{engine="0"}} {value}\\n' for what, value in
                        (("running", running), ("waiting", 0)))
        self.whole({"/metrics": count, "/v1/models": '{"object":"list","data":[{"id":"devstral"}]}'}.get(self.path, ""))
    def do_POST(self):
        global running
        running += 1
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not asked.get("stream"):
            return self.refuse()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.event({"role": "assistant", "content": "first"})
        while not pathlib.Path("/control/go").exists():
            time.sleep(0.05)
        self.event({"content": "last"})
        self.event({}, "stop")
        self.send(b"data: [DONE]\\n\\n")
        self.wfile.write(b"0\\r\\n\\r\\n")
        running -= 1
    def refuse(self):
        global running
        running -= 1
        self.whole("{}")
    def event(self, delta, finish=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self.send(b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1,
                                          "model": "devstral", "choices": [choice]}).encode() + b"\\n\\n")
    def send(self, data):
        self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(data), data))
        self.wfile.flush()
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""

#: A client of the proxy: what it reads is in /control/answer, piece by piece.
CLIENT = """
import json, os, urllib.request
body = {"model": "devstral", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
request = urllib.request.Request("http://127.0.0.1:9000/v1/chat/completions", json.dumps(body).encode(),
                                 {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["KEY"]})
with urllib.request.urlopen(request, timeout=120) as response, open("/control/answer", "wb", 0) as answer:
    while piece := response.read1(65536):
        answer.write(piece)
"""

GET = """
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=5)
"""

_DEADLINE_S = 120


class ContainerPod:
    """`start()`, then what a kubelet would do, piece by piece; `remove()` at the end."""

    def __init__(
        self, engine: Engine, image: str, manifests: Manifests, secrets: Secrets, folder: Path, name: str
    ) -> None:
        self._engine = engine
        self._image = image
        self._name = name
        self._secrets = secrets
        #: the first does nothing but hold the network that all share
        self._started: list[str] = []
        self._control = folder / "control"
        self._control.mkdir(mode=0o777)
        self._control.chmod(0o777)
        self.workload = manifests.proxy()
        self._folder = folder / "volumes"
        self._folder.mkdir()
        Volumes(manifests, self.workload, secrets, self._folder)
        self._give_to_the_group()

    def _give_to_the_group(self) -> None:
        """What fsGroup does: the pod's group owns the files; modes are the volume's."""
        group = self.workload.spec["securityContext"]["fsGroup"]
        for volume in self.workload.spec["volumes"]:
            source = volume.get("secret") or volume.get("configMap")
            path = self._folder / volume["name"]
            held = (path / "..data").resolve()
            for folder in (path, held):
                os.chown(folder, 0, group)
                folder.chmod(0o2775)
            for file in held.iterdir():
                os.chown(file, 0, group)
                file.chmod(source.get("defaultMode", 0o644))

    def start(self) -> None:
        """Start vLLM and the proxy, and wait until the proxy is ready."""
        self._run("pause", "python3", "-c", "import signal; signal.pause()", mounts={})
        self._run("vllm", "python3", "-c", VLLM, mounts={"/control": self._control, **self._mounts("vllm")})
        container = self.workload.container("proxy")
        environ = {entry["name"]: entry["value"] for entry in container.get("env", [])}
        self._run("proxy", *container["command"], *container["args"], mounts=self._mounts("proxy"), environ=environ)
        self._until(lambda: self.passes("proxy", container["readinessProbe"]))

    def ask(self) -> None:
        """Have a client ask, and wait until it has the beginning of its answer."""
        environ = {"KEY": self._secrets.keys["alice"]}
        self._run("client", "python3", "-c", CLIENT, mounts={"/control": self._control}, environ=environ)
        self._until(lambda: b"first" in self.answer)

    @property
    def answer(self) -> bytes:
        path = self._control / "answer"
        return path.read_bytes() if path.exists() else b""

    def go_on(self) -> None:
        (self._control / "go").touch()

    def passes(self, container: str, probe: Mapping[str, Any]) -> bool:
        """Ask as the probe does, but from inside: a pod on loopback only cannot be asked from elsewhere."""
        if "exec" in probe:
            return self.succeeds(container, *probe["exec"]["command"])
        return self.succeeds(container, "python3", "-c", GET, f"http://127.0.0.1:9000{probe['httpGet']['path']}")

    def succeeds(self, container: str, *command: str) -> bool:
        try:
            self.exec(container, *command)
        except AssertionError:
            return False
        return True

    def exec(self, container: str, *command: str) -> str:
        return self._podman("exec", f"{self._name}-{container}", *command)

    def sigterm(self, container: str) -> None:
        self._podman("kill", "--signal", "TERM", f"{self._name}-{container}")

    def exit_code(self, container: str) -> int:
        """Wait for the end of a container."""
        return int(self._podman("wait", f"{self._name}-{container}"))

    def is_running(self, container: str) -> bool:
        told = self._podman("container", "inspect", f"{self._name}-{container}")
        return bool(json.loads(told)[0]["State"]["Running"])

    def remove(self) -> None:
        for name in reversed(self._started):  # who has the network last
            self._podman("rm", "--force", "--time", "0", name)

    def _run(
        self, name: str, *command: str, mounts: Mapping[str, Path], environ: Mapping[str, str] | None = None
    ) -> None:
        context = self.workload.spec["securityContext"]
        known = {container["name"]: container for container in self.workload.containers}
        context = context | known.get(name, known["proxy"])["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        network = f"container:{self._started[0]}" if self._started else "none"
        self._started.append(f"{self._name}-{name}")
        self._podman(
            *("run", "--detach", "--network", network, "--name", self._started[-1]),
            *("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"),
            *("--user", f"{context['runAsUser']}:{context['runAsGroup']}"),
            *("--group-add", str(self.workload.spec["securityContext"]["fsGroup"])),
            *(word for variable, value in (environ or {}).items() for word in ("--env", f"{variable}={value}")),
            *(word for path, source in mounts.items() for word in ("--volume", f"{source}:{path}{_mode(path)}")),
            *("--entrypoint", json.dumps([command[0]]), self._image, *command[1:]),
        )

    def _mounts(self, container: str) -> dict[str, Path]:
        mounts = self.workload.container(container).get("volumeMounts", [])
        return {mount["mountPath"]: self._folder / mount["name"] for mount in mounts}

    def _until(self, condition: Any) -> None:
        until = time.monotonic() + _DEADLINE_S
        while not condition():
            assert time.monotonic() < until, self._podman("logs", f"{self._name}-proxy")
            time.sleep(0.2)

    def _podman(self, *arguments: str) -> str:
        return self._engine.podman(*arguments)


def _mode(path: str) -> str:
    return "" if path in ("/control", "/cache", "/tmp", "/dev/shm") else ":ro"
