"""
Podman and buildah on a storage of their own below build/image: real containers, without a daemon or a registry.

Needs root and Debian's packages; what is missing of them is installed. Where the machine may not pull the base image,
a stand-in is made from Debian's packages: the same suite of Debian and the same version of Python, one layer, with the
name that the Dockerfile has.
"""

import json
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "image"
PACKAGES = ("buildah", "podman", "crun", "debootstrap")
#: Slow machines that run other things: an image is built in 15 s on two idle cores.
_LONGEST_S = 900
#: What is fetched during a build is fetched as this machine fetches: with its certificates.
_CERTIFICATES = "/etc/ssl/certs"


class Engine:
    """Runs podman and buildah; `base` is the name of the base image, which is there after `prepare()`."""

    def __init__(self, work: Path = WORK) -> None:
        self._work = work
        self.base = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)[0]
        self.environ = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(work / "storage.conf"),
            "CONTAINERS_CONF": str(work / "containers.conf"),
        }

    def prepare(self) -> None:
        """Install what is missing, write the configuration, and have the base image."""
        missing = [name for name in PACKAGES if shutil.which(name) is None]
        if missing:
            run("apt-get", "--quiet", "update")
            run("apt-get", "--quiet", "install", "--yes", "--no-install-recommends", *missing)
        self._work.mkdir(parents=True, exist_ok=True)
        self._configure()
        if self.podman("images", "--quiet", self.base).strip():
            return
        if os.environ.get("TEST_IMAGE_BASE") == "pull":
            self.podman("pull", "--quiet", self.base)
        else:
            self.podman("import", str(self._debian()), self.base)

    def podman(self, *arguments: str, **options: Any) -> str:
        """Run podman and return its standard output. A code other than 0 fails."""
        return run("podman", *arguments, env=self.environ, **options)

    def build(self, tag: str, context: Path = ROOT, *arguments: str) -> None:
        """Build deploy/Dockerfile from scratch; no step is taken from an earlier build."""
        run(
            *("buildah", "build", "--isolation", "chroot", "--format", "docker", "--layers", "--no-cache"),
            *("--pull-never", "--network", "host", "--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"),
            *("--timestamp", "315532800", "--file", str(context / "deploy" / "Dockerfile"), "--tag", tag),
            *arguments,
            str(context),
            env=self.environ,
        )

    def inspect(self, image: str) -> dict[str, Any]:
        """Return what the image says of itself."""
        [told] = json.loads(self.podman("image", "inspect", image))
        return dict(told)

    def _configure(self) -> None:
        # An overlay on an overlay is refused; then each layer is copied.
        kind = run("stat", "--file-system", "--format", "%T", str(self._work)).strip()
        driver = "vfs" if kind == "overlayfs" else "overlay"
        (self._work / "storage.conf").write_text(
            f'[storage]\ndriver = "{driver}"\ngraphroot = "{self._work}/store"\nrunroot = "{self._work}/run"\n'
        )
        # Their defaults are higher than this process may set without CAP_SYS_RESOURCE.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        (self._work / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "crun"\n'
        )

    def _debian(self) -> Path:
        """Return a tar of the suite that the base's name ends in, with its python3."""
        suite = self.base.rsplit("-", 1)[1]
        tree, tar = self._work / suite, self._work / f"{suite}.tar"
        if tar.exists():
            return tar
        shutil.rmtree(tree, ignore_errors=True)
        mirror = run("apt-get", "indextargets", "--format", "$(SITE)", "Identifier: Packages", "Origin: Debian")
        packages = "ca-certificates,netbase,tzdata,python3-minimal,libpython3-stdlib,python3-venv"
        run("debootstrap", "--variant=minbase", f"--include={packages}", suite, str(tree), mirror.split()[0])
        for folder in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(tree / folder, ignore_errors=True)
        run("tar", "-C", str(tree), "--sort=name", "--numeric-owner", "-cf", str(tar), ".")
        shutil.rmtree(tree)
        return tar


def run(*command: str, **options: Any) -> str:
    """
    Run a command and return its standard output.

    Raises:
        AssertionError: its code is not 0; says what it wrote.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False, **options)
    told = (done.stdout + done.stderr)[-3000:]
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{told}"
    return done.stdout
