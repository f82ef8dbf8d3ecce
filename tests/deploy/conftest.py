"""The judges of what is in deploy/: linters from the lock, and promtool from Debian's package."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.engine import ROOT, run
from tests.deploy.volumes import Secrets, secrets

_FETCH_S = 300


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """`tool("hadolint")`: where that program of deploy/requirements-deploy.txt is."""

    def where(name: str) -> str:
        path = ROOT / ".venv-deploy" / "bin" / name
        if not path.exists():
            pytest.fail(f"{path} is missing: `make .venv-deploy/.stamp` sets it up")
        return str(path)

    return where


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    """What an operator would have put into the cluster."""
    return secrets(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own judge of rules and configurations."""
    return _prometheus("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    """Prometheus itself."""
    return _prometheus("prometheus")


def _prometheus(program: str) -> str:
    """Return where it is; if nowhere, take it out of Debian's package, which installed would start a server."""
    found = shutil.which(program)
    folder = ROOT / "build" / "prometheus"
    unpacked = folder / "usr" / "bin" / program
    if found or unpacked.exists():
        return found or str(unpacked)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip(f"{program} is not installed, and there is no apt-get to fetch it")
    folder.mkdir(parents=True, exist_ok=True)
    if not _fetched(folder):
        run("apt-get", "--quiet", "update")
        assert _fetched(folder), "apt-get download prometheus failed"
    [package] = folder.glob("*.deb")
    run("dpkg-deb", "--extract", str(package), str(folder))
    package.unlink()
    return str(unpacked)


def _fetched(folder: Path) -> bool:
    command = ["apt-get", "--quiet", "-o", "APT::Sandbox::User=root", "download", "prometheus"]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=_FETCH_S, check=False).returncode == 0
