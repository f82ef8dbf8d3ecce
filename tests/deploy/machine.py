"""
A machine with a systemd of its own, in namespaces: PID 1 there is Debian's systemd, and no unit but ours exists.

    async with machine(folder, units) as booted: await booted.run("systemctl", "start", "devstral-proxy.service")

/etc is a copy, /run, /opt and the folders of units are empty; the network is this machine's. When the test ends, the
kernel kills everything in the namespace. The proxy there is this one, with the system's interpreter: the one that runs
the tests may be in a home folder, which the service may not see.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from tests.live.servers import ROOT, stop_with_parent

SYSTEMD: Final = "/lib/systemd/systemd"
#: Generous: the machine may do something else.
START_S: Final = 30

_BOOT = r"""
set -e
mount --make-rprivate /
cp -a /etc {folder}/etc
mount --bind {folder}/etc /etc
for each in /run /opt /lib/systemd/system /lib/systemd/system-generators; do
    mount -t tmpfs -o mode=755 tmpfs $each
done
rm -rf /etc/systemd/system && mkdir /etc/systemd/system
umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
for each in sysinit basic sockets shutdown umount final multi-user network-online; do
    printf '[Unit]\nDefaultDependencies=no\n' > /lib/systemd/system/$each.target
done
printf '[Unit]\nDefaultDependencies=no\n' > /etc/systemd/system/empty.target
mkdir -p /opt/devstral-proxy/bin /opt/devstral-proxy/packages
mount --bind {packages} /opt/devstral-proxy/packages
cp -r {root}/proxy /opt/devstral-proxy/proxy
printf '#!/bin/sh\nexec env PYTHONPATH=/opt/devstral-proxy:/opt/devstral-proxy/packages {python} -m proxy "$@"\n' \
    > /opt/devstral-proxy/bin/devstral-proxy
chmod 755 /opt/devstral-proxy/bin/devstral-proxy
cp -r {folder}/units/. /etc/systemd/system/
# As on a machine: what one of its processes mounts, such as credentials, others see.
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_LOG_TARGET=console \
    {systemd} --system --unit=empty.target --show-status=no
"""


def missing() -> str:
    """Return why there can be no such machine here; "" if there can."""
    python = _python()
    if os.geteuid() != 0 or not os.path.exists("/sys/fs/cgroup"):
        return "needs root on Linux"
    if not os.access(SYSTEMD, os.X_OK) or not shutil.which("unshare") or not shutil.which("nsenter"):
        return "needs Debian's systemd, unshare and nsenter"
    if not os.access(python, os.X_OK):
        return f"needs {python}, the system's interpreter of the version that runs the tests"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--cgroup", "--fork", "true"], capture_output=True)
    return "" if tried.returncode == 0 else "may not make namespaces"


def _python() -> str:
    return f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"


class Machine:
    """See the module. Commands run inside."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    async def run(self, *command: str, check: bool = True) -> str:
        """
        Run a command in there, and return what it says.

        Raises:
            AssertionError: it failed, with what it said.
        """
        process = await asyncio.create_subprocess_exec(
            *("nsenter", "-t", str(self._pid), "-m", "-p", "--", *command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(120):
            said = (await process.communicate())[0].decode()
        assert not check or process.returncode == 0, f"{command}: {said}"
        return said.strip()

    async def show(self, *names: str) -> dict[str, str]:
        """Return properties of the service."""
        said = await self.run("systemctl", "show", "devstral-proxy.service", *(f"-p{name}" for name in names))
        return dict(line.split("=", 1) for line in said.splitlines())

    async def write(self, path: str, text: str) -> None:
        """Write a file in there."""
        await self.run("sh", "-c", f"mkdir -p {Path(path).parent} && cat > {path} <<'END OF FILE'\n{text}\nEND OF FILE")


@contextlib.asynccontextmanager
async def machine(folder: Path, units: Mapping[str, str]) -> AsyncIterator[Machine]:
    """Boot one with these units, by their file names; it is there when its systemd answers."""
    (folder / "units").mkdir()
    for name, text in units.items():
        path = folder / "units" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    script = _BOOT.format(
        folder=folder, packages=sysconfig.get_path("purelib"), root=ROOT, python=_python(), systemd=SYSTEMD
    )
    with (folder / "console").open("wb") as console:
        process = subprocess.Popen(  # noqa: ASYNC220 - some ms, and nobody waits
            [
                *("unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child"),
                *("--mount-proc", "sh", "-c", script),
            ],
            stdout=console,
            stderr=console,
            preexec_fn=stop_with_parent,
        )
    try:
        async with asyncio.timeout(START_S):
            while not (pids := _children(process.pid)):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.05)
            booted = Machine(pids[0])
            while "running" not in await booted.run("systemctl", "is-system-running", check=False):
                assert process.poll() is None, (folder / "console").read_text()
                await asyncio.sleep(0.2)
        yield booted
    finally:
        process.send_signal(signal.SIGKILL)  # and the kernel kills its child, and with it all the namespace
        process.wait()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
