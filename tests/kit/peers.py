"""
Run the kit against this proxy and against the gateways that `make peers` installs, and write the table.

    python -m tests.kit.peers [--only-gateway smg]

One gateway runs at a time, with its default settings, told only where to listen and where the model server is; a
second, shorter run has two model servers. What it writes: results.json beside this file, and the README between the
marks `faults` and `end of faults`.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tests.kit import table
from tests.kit.__main__ import why_not
from tests.kit.catalogue import ROWS, chosen
from tests.kit.client import Target
from tests.kit.model import Model
from tests.kit.rig import Ending, Rig
from tests.kit.run import Result, run, wait_until_it_serves

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = Path(__file__).with_name("results.json")
_MARKED: Final = re.compile(r"(?<=<!-- faults -->\n).*(?=<!-- end of faults -->)", re.DOTALL)

#: LiteLLM imports for half a minute on a slow machine; smg looks at its model server first.
_START_S: Final = 120.0
_STOP_S: Final = 15.0
TWO_SERVERS: Final = ("F04g", "F06c")
ONE_SERVER: Final = tuple(row.id for row in ROWS if row.id not in TWO_SERVERS)


class NoStart(Exception):
    """The gateway did not come up; the text has its last words."""


class Gateway(NamedTuple):
    """
    A program: `command` from its port, the URLs of model servers, and a folder of its own.

    `installed_as` is its package; "" is this proxy.
    """

    name: str
    command: Callable[[int, Sequence[str], Path], list[str]]
    installed_as: str = ""
    environment: Mapping[str, str] = MappingProxyType({})

    @property
    def version(self) -> str:
        """
        What is installed.

        Raises:
            NoStart: nothing is.
        """
        if not self.installed_as:
            return re.search(r'"([\d.]+)"', (ROOT / "proxy" / "__init__.py").read_text())[1]  # type: ignore[index] # is there
        name = self.installed_as.replace("-", "_")
        folders = list(_environment_of(self.installed_as).glob(f"lib/python*/site-packages/{name}-*.dist-info"))
        if not folders:
            raise NoStart("it is not installed: make peers")
        return folders[0].name.removesuffix(".dist-info").rpartition("-")[2]


def _environment_of(package: str) -> Path:
    return ROOT / f".venv-peer-{package}"


def _program(package: str) -> str:
    return str(_environment_of(package) / "bin" / package)


def _proxy(port: int, models: Sequence[str], _: Path) -> list[str]:
    return [sys.executable, "-m", "proxy", "serve", "--port", str(port), "--vllm-base", ",".join(models)]


def _vllm_router(port: int, models: Sequence[str], _: Path) -> list[str]:
    return [_program("vllm-router"), *_router_options(port, models)]


def _smg(port: int, models: Sequence[str], _: Path) -> list[str]:
    return [_program("smg"), "launch", *_router_options(port, models)]


def _router_options(port: int, models: Sequence[str]) -> list[str]:
    """Both Rust routers come from one: their options have the same names."""
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(_free_port())]
    return ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", *models, *metrics]


def _litellm(port: int, models: Sequence[str], folder: Path) -> list[str]:
    """`hosted_vllm` is LiteLLM's own name for a vLLM server."""
    config = folder / "litellm.yaml"
    entry = '  - model_name: devstral\n    litellm_params: {model: hosted_vllm/devstral, api_base: "%s/v1"}\n'
    config.write_text("model_list:\n" + "".join(entry % url for url in models))
    return [_program("litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


GATEWAYS: Final = (
    Gateway("this proxy", _proxy),
    Gateway(
        "LiteLLM",
        _litellm,
        "litellm",
        # No price list from the network; without a key of its own it does not start otherwise.
        {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"},
    ),
    Gateway("vllm-router", _vllm_router, "vllm-router"),
    Gateway("smg", _smg, "smg"),
)


class Running:
    """A started gateway. `start()` it before use and again when it is lost, `stop()` it in the end."""

    def __init__(self, gateway: Gateway, rig: Rig, folder: Path) -> None:
        self._gateway = gateway
        self._rig = rig
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.starts = 0

    async def start(self) -> None:
        """
        Start it, after ending the one before.

        Raises:
            NoStart: it ended, or does not answer in time.
        """
        await self.stop()
        urls = [f"http://127.0.0.1:{port}" for port in self._rig.model.ports]
        command = self._gateway.command(self._rig.target.port, urls, self._folder)
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self._folder)}
        with (self._folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env={**environment, **self._gateway.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1
        ended = asyncio.ensure_future(self._process.wait())
        serving = asyncio.ensure_future(wait_until_it_serves(self._rig, _START_S))
        await asyncio.wait([ended, serving], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not serving.done() or not serving.result():
            serving.cancel()
            raise NoStart(f"{await why_not(self._rig)}\n{(self._folder / 'log').read_text(errors='replace')[-2000:]}")

    async def stop(self) -> None:
        """End it and whatever it has started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._process = None

    def terminate(self) -> None:
        assert self._process is not None
        self._process.terminate()

    async def exit_code(self) -> int | None:
        assert self._process is not None
        return await self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def measure(gateway: Gateway) -> dict[str, Any]:
    """
    Return what results.json keeps of one gateway.

    Raises:
        NoStart: it does not come up.
    """
    version = gateway.version
    one, starts = await check(gateway, ONE_SERVER, servers=1)
    two, more = await check(gateway, TWO_SERVERS, servers=2)
    rows = sorted((result.fields() for result in [*one, *two]), key=lambda row: str(row["id"]))
    return {"version": version, "restarts": starts + more - 2, "rows": rows}


async def check(
    gateway: Gateway, ids: Sequence[str], *, servers: int, silence_s: float = 17.0
) -> tuple[list[Result], int]:
    """
    Return the results of these rows with so many model servers, and how often the gateway had to be started.

    Raises:
        NoStart: it does not come up.
    """
    with tempfile.TemporaryDirectory() as folder:
        async with Model([0] * servers) as model, Model() as other:
            rig = Rig(Target("127.0.0.1", _free_port()), model, other, silence_s=silence_s)
            running = Running(gateway, rig, Path(folder))
            rig.ending = Ending(running.terminate, running.exit_code)
            try:
                await running.start()
                rows = chosen(ids)
                return await run(rig, rows, _tell, restart=running.start), running.starts
            finally:
                await running.stop()


def _tell(result: Result) -> None:
    print(table.line(result), flush=True)


def write(kept: Mapping[str, Any], readme: Path = ROOT / "README.md") -> None:
    """Write results.json, and the README's section if it has one."""
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    readme.write_text(_MARKED.sub(lambda _: table.section(kept), readme.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kit.peers")
    names = [gateway.name for gateway in GATEWAYS]
    parser.add_argument("--only-gateway", action="append", choices=names, help="keep what is known of the others")
    wanted = parser.parse_args().only_gateway or names
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"gateways": {}}
    failed = False
    for gateway in (each for each in GATEWAYS if each.name in wanted):
        print(f"--- {gateway.name}")
        try:
            found = asyncio.run(measure(gateway)) | {"date": datetime.now(UTC).date().isoformat()}
        except (NoStart, OSError, ValueError) as exc:
            print(f"not measured: {exc}", file=sys.stderr)
            failed = True
            continue
        kept["gateways"] = {name: found if name == gateway.name else kept["gateways"].get(name) for name in names}
        kept["gateways"] = {name: found for name, found in kept["gateways"].items() if found}
        write(kept)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
