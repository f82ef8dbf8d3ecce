"""Certificates of the listener, and authorities of upstreams, that are replaced while the program runs."""

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from proxy.cli import main
from proxy.config import Backend, load_config
from proxy.process.reload import Settings, Source, check
from proxy.process.serve import new_metrics
from tests.edge.test_serve import run_proxy
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, completion, event, text_chunk, whole
from tests.process.conftest import DEADLINE_S, Group, ended, running, until
from tests.process.test_reload import Log

HOST = "127.0.0.1"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def put(path: Path, *pems: trustme.Blob) -> None:
    """Put a whole file in the place of another, as certbot and Kubernetes do."""
    new = path.with_suffix(".new")
    new.write_bytes(b"".join(pem.bytes() for pem in pems))
    new.rename(path)


@pytest.fixture
def certificate(tmp_path, authority) -> Callable[[str], tuple[str, ...]]:
    """`certificate("name")` puts a new one and its key in place, and returns the flags that name them."""

    def placed(name: str) -> tuple[str, ...]:
        pair = authority.issue_cert(HOST, common_name=name)
        put(tmp_path / "key.pem", pair.private_key_pem)
        put(tmp_path / "cert.pem", *pair.cert_chain_pems)
        return "--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file", str(tmp_path / "key.pem")

    return placed


class Client:
    """One connection: the name in the certificate that it was shown, and requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        certificate: Any = writer.get_extra_info("peercert")
        self.shown = dict(pair for [pair] in certificate["subject"])["commonName"]
        self.port = writer.get_extra_info("sockname")[1]

    async def is_live(self) -> bool:
        self._writer.write(LIVEZ)
        answer = await self._reader.readuntil(b"}")
        return answer.startswith(b"HTTP/1.1 200 OK\r\n")


@contextlib.asynccontextmanager
async def connected(group: Group, context: ssl.SSLContext) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(HOST, group.port, ssl=context)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until_all_show(group: Group, context: ssl.SSLContext, name: str) -> None:
    """Return when every worker shows this certificate to a new connection."""
    workers = group.workers() or {group.process.pid}
    shown: dict[int, str] = {}
    async with asyncio.timeout(DEADLINE_S):
        while shown.keys() != workers or set(shown.values()) != {name}:
            async with connected(group, context) as client:
                assert await client.is_live()
                worker = group.worker_at(client.port) if group.workers() else group.process.pid
                shown[worker] = client.shown


# --- as a user


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", ["SIGHUP", "file watch"])
async def test_a_new_certificate_is_shown_by_every_worker_and_what_runs_goes_on(certificate, trusting, workers, how):
    more = asyncio.Event()
    rest = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    async with (
        ScriptedUpstream([STREAM_HEAD, event(text_chunk("a")), more, *rest]) as upstream,
        running(
            workers,
            *certificate("old"),
            VLLM_BASE=upstream.url,
            WATCH_CONFIG="0.05" if how == "file watch" else "0",
        ) as group,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session,
        connected(group, trusting) as before,
    ):
        assert group.startup["tls"] == "server"
        assert (await group.process.stderr.readline()).split()[2] == f"https://{HOST}:{group.port}/v1".encode()
        await until_all_show(group, trusting, "old")
        async with session.post(f"https://{HOST}:{group.port}/v1/chat/completions", json=body) as response:
            certificate("new")
            if how == "SIGHUP":
                group.send(signal.SIGHUP)
            line = await group.log_line("config_reloaded")
            await until_all_show(group, trusting, "new")
            more.set()
            stream = await response.read()
        still = await before.is_live()

    assert line["changed"] == ["tls_cert_file", "tls_key_file"]
    assert stream.endswith(b"data: [DONE]\n\n")
    assert (before.shown, still) == ("old", True)


def another_key(folder: Path, authority: trustme.CA) -> None:
    put(folder / "key.pem", authority.issue_cert(HOST).private_key_pem)


def no_key(folder: Path, _: trustme.CA) -> None:
    (folder / "key.pem").unlink()


def garbage(folder: Path, _: trustme.CA) -> None:
    put(folder / "cert.pem", trustme.Blob(b"canary-5c1e"))


BAD = {
    another_key: "tls_key_file: {0}/key.pem is not the key of the certificate in {0}/cert.pem",
    no_key: "tls_key_file: cannot read {0}/key.pem: No such file or directory",
    garbage: "tls_cert_file: cannot use {0}/cert.pem: no certificate or crl found",
}


@pytest.mark.parametrize("spoil", BAD)
async def test_a_certificate_that_cannot_be_used_is_refused_once_and_the_old_one_stays(
    certificate, trusting, authority, tmp_path, spoil
):
    async with running(2, *certificate("old"), WATCH_CONFIG="0.05") as group:
        spoil(tmp_path, authority)
        line = await group.log_line("config_reload_failed")
        await asyncio.sleep(0.5)  # ten looks
        await until_all_show(group, trusting, "old")
        certificate("new")
        assert (await group.log_line("config_reloaded"))["changed"] == ["tls_cert_file", "tls_key_file"]
        await until_all_show(group, trusting, "new")

    assert line["error"] == BAD[spoil].format(tmp_path)
    assert "canary" not in line["error"]


async def test_a_worker_that_is_started_while_the_files_are_bad_shows_the_last_good_certificate(
    certificate, trusting, authority, tmp_path
):
    async with running(2, *certificate("old"), WATCH_CONFIG="0.05") as group:
        certificate("new")
        await group.log_line("config_reloaded")
        await until_all_show(group, trusting, "new")
        another_key(tmp_path, authority)
        await group.log_line("config_reload_failed")
        before = group.workers()
        os.kill(min(before), signal.SIGKILL)
        await until(lambda: len(group.workers() - before) == 1)
        await until_all_show(group, trusting, "new")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("spoil", BAD)
async def test_the_start_is_refused_with_exit_code_78(certificate, authority, tmp_path, workers, spoil):
    flags = certificate("old")
    spoil(tmp_path, authority)
    process = await run_proxy("--workers", str(workers), *flags)
    said = await ended(process)

    assert process.returncode == os.EX_CONFIG
    assert said == f"devstral-proxy: {BAD[spoil].format(tmp_path)}\n"


@pytest.mark.parametrize("spoil", BAD)
def test_check_config_says_the_same(certificate, authority, tmp_path, capsys, spoil):
    flags = certificate("old")
    spoil(tmp_path, authority)

    assert main(["check-config", *flags]) == os.EX_CONFIG
    assert capsys.readouterr().err == f"devstral-proxy: {BAD[spoil].format(tmp_path)}\n"


async def test_other_clients_are_let_in_when_their_authority_is_replaced(certificate, authority, tmp_path):
    old, new = trustme.CA(), trustme.CA()
    put(tmp_path / "clients.pem", old.cert_pem)
    flags = (*certificate("proxy"), "--tls-client-ca-file", str(tmp_path / "clients.pem"))

    def client_of(ca: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        ca.issue_cert("agent.example").configure_cert(context)
        return context

    async with running(2, *flags, WATCH_CONFIG="0.05") as group:
        assert group.startup["tls"] == "mutual"
        await until_all_show(group, client_of(old), "proxy")
        put(tmp_path / "clients.pem", new.cert_pem)
        assert (await group.log_line("config_reloaded"))["changed"] == ["tls_client_ca_file"]
        context = client_of(new)
        async with asyncio.timeout(DEADLINE_S):
            while True:  # until each of the two has it
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await until_all_show(group, context, "proxy")
                    break
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            async with connected(group, client_of(old)) as client:
                await client.is_live()


# --- in the settings


def settings_of(path: Path) -> tuple[Settings, Log]:
    log, source = Log(), Source(lambda read_file: load_config(["--config", str(path)], {}, read_file))
    config = source.read()
    return Settings(source, config, log, new_metrics(), context=check(config)), log


@pytest.mark.parametrize("is_on", [True, False])
def test_to_begin_with_tls_or_to_cease_needs_a_restart(certificate, tmp_path, is_on):
    _, cert, _, key = certificate("proxy")
    on, off = f"tls_cert_file = '{cert}'\ntls_key_file = '{key}'", ""
    file = tmp_path / "proxy.toml"
    file.write_text(on if is_on else off)
    settings, log = settings_of(file)
    before = settings.config
    file.write_text((off if is_on else on) + "\nkeep_alive_s = 7")
    settings.reload()

    assert settings.config.tls_cert_file == before.tls_cert_file
    assert (settings.context is not None) is is_on
    assert log.lines == [
        ("config_reloaded", {"changed": ["keep_alive_s"], "needs_restart": ["tls_cert_file", "tls_key_file"]})
    ]


def test_certificates_at_another_path_are_taken_at_once(certificate, tmp_path):
    _, cert, _, key = certificate("proxy")
    (tmp_path / "other.pem").write_bytes(Path(cert).read_bytes())
    file = tmp_path / "proxy.toml"
    file.write_text(f"tls_cert_file = '{cert}'\ntls_key_file = '{key}'")
    settings, log = settings_of(file)
    file.write_text(f"tls_cert_file = '{tmp_path}/other.pem'\ntls_key_file = '{key}'")

    config = settings.reload()

    assert config is not None
    assert config.tls_cert_file == f"{tmp_path}/other.pem"
    assert log.lines == [("config_reloaded", {"changed": ["tls_cert_file"], "needs_restart": []})]


@pytest.mark.parametrize("spoil", BAD)
def test_nobody_gets_settings_whose_certificates_cannot_be_used(certificate, authority, tmp_path, spoil):
    _, cert, _, key = certificate("proxy")
    file = tmp_path / "proxy.toml"
    file.write_text(f"tls_cert_file = '{cert}'\ntls_key_file = '{key}'")
    settings, log = settings_of(file)
    before = settings.config, settings.context
    spoil(tmp_path, authority)

    assert settings.reload() is None
    assert (settings.config, settings.context) == before
    assert log.lines == [("config_reload_failed", {"error": BAD[spoil].format(tmp_path)})]


@pytest.mark.parametrize("name", ["tls_cert_file", "tls_key_file", "ca_file"])
def test_files_that_settings_only_name_are_watched(certificate, authority, tmp_path, name):
    _, cert, _, key = certificate("proxy")
    paths = {"tls_cert_file": Path(cert), "tls_key_file": Path(key), "ca_file": tmp_path / "ca.pem"}
    put(paths["ca_file"], authority.cert_pem)
    file = tmp_path / "proxy.toml"
    file.write_text(
        f"tls_cert_file = '{cert}'\ntls_key_file = '{key}'\n"
        f"[[backends]]\nurl = 'https://{HOST}:1'\nca_file = '{paths['ca_file']}'"
    )
    source = settings_of(file)[0]._source
    paths[name].write_bytes(paths[name].read_bytes() + b"\n")

    assert [source.has_changed(), source.has_changed()] == [False, True]


# --- upstream


async def test_new_authorities_under_the_same_name_are_used_for_the_upstream(start_proxy, tmp_path):
    old, new = trustme.CA(), trustme.CA()
    put(tmp_path / "ca.pem", old.cert_pem)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(whole(completion("secret")))
            await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    new.issue_cert(HOST).configure_cert(context)
    async with await asyncio.start_server(answer, HOST, 0, ssl=context) as server:
        url = f"https://{HOST}:{server.sockets[0].getsockname()[1]}"
        proxy = await start_proxy("", backends=(Backend(url=url, ca_file=str(tmp_path / "ca.pem")),))
        [before] = proxy.edge.pool.replicas
        async with proxy.chat() as response:
            refused = (response.status, (await response.json())["error"]["code"])
        await proxy.edge.reload(proxy.edge.config)
        [same] = proxy.edge.pool.replicas
        put(tmp_path / "ca.pem", new.cert_pem)
        await proxy.edge.reload(proxy.edge.config)
        async with proxy.chat() as response:
            answered = response.status

    assert refused == (502, "upstream_unavailable")
    assert same is before
    assert answered == 200


# --- the metrics' own listener


async def test_the_metrics_own_listener_shows_the_same_certificates(certificate, trusting, start_group, unused_port):
    flags = (*certificate("old"), "--metrics-port", str(unused_port))
    group = await start_group(1, *flags, VLLM_BASE="http://127.0.0.1:1", WATCH_CONFIG="0")
    group.port = unused_port
    assert group.startup["metrics"] == f"https://{HOST}:{unused_port}/metrics"
    async with connected(group, trusting) as client:
        assert client.shown == "old"

    certificate("new")
    group.send(signal.SIGHUP)
    await group.log_line("config_reloaded")
    await until_all_show(group, trusting, "new")
