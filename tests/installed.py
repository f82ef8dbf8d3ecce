"""Debian's programs, where a test needs one: a server before the proxy, a shell, Prometheus."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

#: Where Debian puts servers; it is not on every user's PATH.
_PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
#: Generous: a package is fetched over a network.
_INSTALL_S = 300

#: A program's path, by its name and, where that is another, its Debian package.
Installed = Callable[..., Path]


@pytest.fixture(scope="session")
def installed() -> Installed:
    """
    `installed("nginx")`: where that program is. It is installed with apt-get if it is absent and root asks.

    A test that cannot have it fails, so that none is left out unseen.
    """

    def found(program: str, package: str = "") -> Path:
        path = shutil.which(program, path=_PLACES)
        if path is None and os.geteuid() == 0 and shutil.which("apt-get"):
            _install(package or program)
            path = shutil.which(program, path=_PLACES)
        if path is None:
            pytest.fail(f"{program} is not installed: as root, apt-get install --yes {package or program}")
        return Path(path)

    return found


def _install(package: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", package]):
        done = subprocess.run(
            ["apt-get", "--quiet", *arguments], env=environment, capture_output=True, text=True, timeout=_INSTALL_S
        )
        if done.returncode:
            pytest.fail(f"apt-get {' '.join(arguments)} failed: {done.stderr.strip()[-300:]}")
