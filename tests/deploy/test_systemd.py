"""deploy/systemd: what systemd itself says of the units, and a systemd that runs them."""

import asyncio
import contextlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.machine import machine, missing
from tests.deploy.places import DEPLOY, LOCALHOST
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, completion, event, text_chunk, whole
from tests.live.servers import free_port

FOLDER = DEPLOY / "systemd"
SERVICE = (FOLDER / "devstral-proxy.service").read_text(encoding="utf-8")
SOCKET = (FOLDER / "devstral-proxy.socket").read_text(encoding="utf-8")

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
needs_systemd = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


def setting(name):
    return re.findall(rf"^{name}=(.*)$", SERVICE, re.MULTILINE)


# --- the files


@needs_analyze
def test_systemd_understands_every_line(tmp_path):
    for name, text in (("service", SERVICE), ("socket", SOCKET)):
        (tmp_path / f"devstral-proxy.{name}").write_text(
            text.replace("/opt/devstral-proxy/bin/devstral-proxy", "/bin/true")
        )
    units = [str(tmp_path / f"devstral-proxy.{name}") for name in ("service", "socket")]

    said = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)

    assert (said.returncode, said.stderr) == (0, "")


@needs_analyze
def test_what_the_service_may_do_is_as_little_as_the_readme_says():
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(FOLDER / "devstral-proxy.service")],
        capture_output=True,
        text=True,
    ).stdout
    [exposure] = re.findall(r"exposure level for devstral-proxy.service: (\d+\.\d)", said)
    [claimed] = re.findall(r"exposure level of (\d+\.\d)", (DEPLOY / "README.md").read_text(encoding="utf-8"))

    assert float(exposure) <= float(claimed)


def test_the_guide_says_where_the_socket_listens():
    [address] = re.findall(r"^ListenStream=(\S+)$", SOCKET, re.MULTILINE)
    settings = tomllib.loads((DEPLOY / "edge" / "proxy.toml").read_text())
    guide = (DEPLOY / "README.md").read_text(encoding="utf-8")

    assert f"**The address** is the socket's, `{address}`" in guide
    assert f"give that the `{settings['host']}:{settings['port']}` of this file" in guide


def test_the_time_to_stop_is_longer_than_the_longest_end():
    from proxy.config import Config
    from proxy.process.ending import longest_end_s

    assert float(setting("TimeoutStopSec")[0]) > longest_end_s(Config(), at_once=False)


def test_files_suffice_for_the_bounds_of_a_worker():
    from proxy.config import Config
    from proxy.process.limits import open_files_needed

    assert int(setting("LimitNOFILE")[0]) > open_files_needed(Config())
    assert f"{open_files_needed(Config()):,} with the defaults" in SERVICE


# --- a systemd that runs them

STREAM = [STREAM_HEAD, event(text_chunk("a"))]
REST = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]


class Service:
    """The service on a machine of its own, in front of `upstream`."""

    def __init__(self, booted, port):
        self.machine = booted
        self.port = port
        self.url = f"http://{LOCALHOST}:{port}"

    async def status(self, path="/livez"):
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return response.status

    async def log(self):
        return await self.machine.run("cat", "/run/proxy.log")

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not await condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def installed(folder: Path, upstream: ScriptedUpstream, **drop_in: str):
    """Install as deploy/README.md says, and start. A drop-in has the log, and what a test wants otherwise."""
    port = free_port()
    lines = {"StandardOutput": "append:/run/proxy.log", "StandardError": "append:/run/proxy.log", **drop_in}
    units = {
        "devstral-proxy.service": SERVICE,
        "devstral-proxy.socket": SOCKET.replace("127.0.0.1:9000", f"{LOCALHOST}:{port}"),
        "devstral-proxy.service.d/test.conf": "[Service]\n" + "".join(f"{k}={v}\n" for k, v in lines.items()),
    }
    async with machine(folder, units) as booted:
        await booted.run("systemd-sysusers", str(FOLDER / "sysusers.conf"))
        await booted.run("systemd-tmpfiles", "--create", str(FOLDER / "tmpfiles.conf"))
        await booted.write(
            "/etc/devstral-proxy/proxy.toml",
            f'vllm_base = "{upstream.url}"\nprofile = "vllm-mistral-tokenizer"\nworkers = 2\ndrain_delay_s = 0.5\n',
        )
        await booted.run("chgrp", "devstral-proxy", "/etc/devstral-proxy/proxy.toml")
        await booted.run("chmod", "640", "/etc/devstral-proxy/proxy.toml")
        await booted.write("/etc/devstral-proxy/private/vllm-api-key", "the-key-of-the-model-server")
        await booted.run("chmod", "600", "/etc/devstral-proxy/private/vllm-api-key")
        await booted.run("systemctl", "start", "devstral-proxy.socket")
        said = await booted.run("systemctl", "start", "devstral-proxy.service", check=False)
        status = await booted.run("systemctl", "status", "--lines=0", "devstral-proxy.service", check=False)
        assert not said, f"{said}\n{status}\n{await booted.run('cat', '/run/proxy.log', check=False)}"
        yield Service(booted, port)


def chat(session, service, **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return session.post(f"{service.url}/v1/chat/completions", json=body)


@needs_systemd
async def test_the_service_runs_with_the_rights_of_nobody_and_has_its_credential(tmp_path):
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream, installed(tmp_path, upstream) as service:
        shown = await service.machine.show("ActiveState", "StatusText", "MainPID")
        status = await service.machine.run("cat", f"/proc/{shown['MainPID']}/status")
        rights = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        async with aiohttp.ClientSession() as session, chat(session, service) as response:
            assert (response.status, (await response.json())["choices"][0]["message"]["content"]) == (200, "Hello")

        assert shown["ActiveState"] == "active"
        assert shown["StatusText"] == f"Serving {service.url} with 2 workers"
        assert upstream.requests[0].header("authorization") == "Bearer the-key-of-the-model-server"
        assert int(rights["Uid"].split()[0]) >= 61184  # of DynamicUser: systemd.exec(5)
        assert (rights["CapBnd"].strip("0"), rights["NoNewPrivs"], rights["Seccomp"]) == ("", "1", "2")


@needs_systemd
async def test_a_reload_takes_new_settings_and_a_restart_refuses_nobody(tmp_path):
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream, installed(tmp_path, upstream) as service:
        pid = (await service.machine.show("MainPID"))["MainPID"]
        await service.machine.run("sh", "-c", "echo 'log_sample = 0.5' >> /etc/devstral-proxy/proxy.toml")
        await service.machine.run("systemctl", "reload", "devstral-proxy.service")

        async def is_taken():
            return '"config_reloaded"' in await service.log()

        await service.until(is_taken)
        assert (await service.machine.show("MainPID"))["MainPID"] == pid

        statuses = []
        ended = asyncio.Event()

        async def ask_again_and_again():
            while not ended.is_set():
                statuses.append(await service.status())
                await asyncio.sleep(0.01)

        asking = asyncio.create_task(ask_again_and_again())
        await service.machine.run("systemctl", "restart", "devstral-proxy.service")
        ended.set()
        await asking

        assert set(statuses) == {200}
        assert (await service.machine.show("MainPID"))["MainPID"] != pid


@needs_systemd
async def test_a_program_of_which_nothing_turns_is_started_again(tmp_path):
    async with (
        ScriptedUpstream([whole(completion("Hello"))]) as upstream,
        installed(tmp_path, upstream, WatchdogSec="3") as service,
    ):
        await asyncio.sleep(4)  # longer than the watchdog waits: it has heard that all is well
        shown = await service.machine.show("MainPID", "NRestarts")
        assert shown["NRestarts"] == "0"
        await service.machine.run("systemctl", "kill", "--signal=SIGSTOP", "devstral-proxy.service")

        async def is_again():
            now = await service.machine.show("MainPID", "NRestarts", "ActiveState")
            return now["NRestarts"] == "1" and now["ActiveState"] == "active" and now["MainPID"] != shown["MainPID"]

        await service.until(is_again)
        assert await service.status() == 200


@needs_systemd
async def test_an_end_that_takes_longer_than_the_units_limit_is_waited_for(tmp_path):
    """The proxy asks for the time that its settings allow; without that systemd would kill it after a second."""
    release = asyncio.Event()
    async with (
        ScriptedUpstream([*STREAM, release, *REST]) as upstream,
        installed(tmp_path, upstream, TimeoutStopSec="1") as service,
        aiohttp.ClientSession() as session,
    ):
        async with chat(session, service, stream=True) as response:
            await response.content.readuntil(b"\n\n")
            stopping = asyncio.create_task(service.machine.run("systemctl", "stop", "devstral-proxy.service"))
            await asyncio.sleep(4)
            release.set()
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
            await stopping

        assert (await service.machine.show("Result"))["Result"] == "success"


@needs_systemd
async def test_a_configuration_that_cannot_be_used_is_not_tried_again(tmp_path):
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream, installed(tmp_path, upstream) as service:
        await service.machine.write("/etc/devstral-proxy/proxy.toml", "prot = 1")
        await service.machine.run("systemctl", "restart", "devstral-proxy.service", check=False)
        shown = await service.machine.show("ActiveState", "ExecMainStatus", "NRestarts")

        assert shown == {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
