"""
F40: what is installed is what was locked, by hash, and importing it talks to nobody.

BerriAI/litellm#24518, #24521 (a release that ran code of others on import).
"""

import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import proxy

ROOT = Path(proxy.__file__).parent.parent
LOCKS = sorted(ROOT.glob("deploy/requirements*.txt"))
NPM_LOCKS = sorted(
    path
    for folder in ("benchmarks", "tests/clients", "tests/deploy")
    for path in (ROOT / folder).glob("*/package-lock.json")
)

#: One exact version by name, from the index, perhaps for some platforms only; then hashes.
PINNED = re.compile(r"[A-Za-z0-9._-]+(\[[a-z,-]+\])?==\S+( *;[^\\]*)?( *--hash=sha256:[0-9a-f]{64})+")

#: Arbitrary: so many packages may run in the process that serves. More want a reason. Of these 14 are OpenTelemetry's
#: SDK and what it needs to send spans; none of them is loaded where no receiver is set.
MOST_PACKAGES = 48

#: Runs in an interpreter of its own: prints every event by which a program reaches others.
WATCH = """
import sys
EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto",
          "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "urllib.Request")
sys.addaudithook(lambda event, arguments: print("REACHED", event, arguments) if event in EVENTS else None)
"""


def entries(lock):
    """Yield the requirements of a lock, each on one line."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        line = line.partition(" #")[0].strip()
        if line and not line.startswith("#"):
            yield line


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_one_version_and_hashes(lock):
    lines = [line for line in entries(lock) if not line.startswith("--")]

    assert lines != []
    assert [line[:80] for line in lines if not PINNED.fullmatch(line)] == []


@pytest.mark.parametrize("lock", NPM_LOCKS, ids=lambda path: f"{path.parts[-3]}/{path.parts[-2]}")
def test_every_locked_package_of_npm_has_a_hash(lock):
    packages = json.loads(lock.read_text(encoding="utf-8"))["packages"]

    assert [name for name, entry in packages.items() if name and not entry.get("integrity", "").startswith("sha")] == []


def test_few_packages_run_in_the_process_that_serves():
    names = {line.partition("==")[0] for line in entries(ROOT / "deploy/requirements.txt")}

    assert 0 < len(names) <= MOST_PACKAGES


def test_importing_reaches_nobody():
    names = [module.name for module in pkgutil.walk_packages(proxy.__path__, "proxy.") if "__main__" not in module.name]
    script = WATCH + f"import proxy, {', '.join(names)}\nprint('imported')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert len(names) > 50
    assert done.stdout == "imported\n"


def test_what_watches_imports_would_see_a_connection():
    script = WATCH + "import socket\nsocket.socket().connect_ex(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.startswith("REACHED socket.connect")
