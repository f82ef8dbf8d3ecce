"""devstral-proxy healthcheck: whom it asks, what it says, how it ends, and how little it loads."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from proxy.cli import main
from proxy.config import ConfigError
from proxy.demo import DemoUpstream
from proxy.healthcheck import healthcheck
from tests.fakes import Do, ScriptedUpstream, whole
from tests.process.conftest import running

ROOT = Path(__file__).resolve().parents[1]

OK = whole({"status": "ok"}).replace(b": ", b":")


def ask(*arguments, **environ):
    return asyncio.to_thread(healthcheck, list(arguments), environ)


@pytest.fixture
async def proxy(start_proxy):
    demo = DemoUpstream()
    await demo.start()
    yield await start_proxy(demo.url)
    await demo.close()


@pytest.mark.parametrize(("flags", "word"), [((), "live"), (("--live",), "live"), (("--ready",), "ready")])
async def test_a_proxy_with_an_upstream_lives_and_is_ready(flags, word, proxy, capsys):
    assert await ask(*flags, proxy.url) == 0
    assert capsys.readouterr() == (f"devstral-proxy: {word}\n", "")


async def test_a_proxy_without_an_upstream_lives_and_is_not_ready(start_proxy, unused_port, capsys):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")

    assert await ask(proxy.url) == 0
    assert await ask("--ready", proxy.url) == 1
    assert capsys.readouterr() == ("devstral-proxy: live\n", "devstral-proxy: not ready: status 503, no_upstream\n")


async def test_without_a_url_it_asks_where_the_configuration_says(proxy, capsys):
    assert await ask(PROXY_PORT=str(proxy.port)) == 0
    assert await ask("--port", str(proxy.port), "--ready") == 0


@pytest.mark.parametrize(
    ("host", "asked", "says"),
    [
        ("0.0.0.0", "127.0.0.1", "127.0.0.1:9001"),
        ("::", "::1", "[::1]:9001"),
        ("gpu1", "gpu1", "gpu1:9001"),
    ],
)
async def test_who_listens_on_all_addresses_is_asked_on_loopback(host, asked, says, capsys, monkeypatch):
    """Linux would connect to 0.0.0.0 too; other systems do not."""
    places = []

    def refused(place, *_):
        places.append(place)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refused)

    assert await ask("--host", host, "--port", "9001") == 1
    assert places == [(asked, 9001)]
    assert capsys.readouterr().err == f"devstral-proxy: not live: nothing listens at {says}\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([b"SSH-2.0-x\r\n", Do.CLOSE], "not live: what answers is not HTTP"),
        ([Do.CLOSE], "not live: the connection was closed without an answer"),
        ([Do.RESET], "not live: Connection reset by peer"),
        ([whole({"status": "\x1b[2J"}, 503)], "not live: status 503"),
        ([whole(b"x" * 100_000, 500)], "not live: status 500"),
    ],
)
async def test_any_other_answer_is_one_line_and_1(script, says, capsys):
    async with ScriptedUpstream(script) as server:
        assert await ask(server.url) == 1

    assert capsys.readouterr() == ("", f"devstral-proxy: {says}\n")


@pytest.mark.parametrize("script", [[Do.WAIT_FOR_PEER], [*(step for byte in OK[:40] for step in (bytes([byte]), 0.1))]])
async def test_nothing_and_a_byte_at_a_time_are_not_waited_for(script, capsys, monkeypatch):
    monkeypatch.setattr("proxy.healthcheck.DEADLINE_S", 0.3)
    async with ScriptedUpstream(script) as server:
        assert await ask(server.url) == 1

    assert capsys.readouterr().err == "devstral-proxy: not live: no answer within 0.3 s\n"


async def test_a_socket_of_this_machine_is_asked_by_its_path(tmp_path, capsys):
    path = tmp_path / "proxy.sock"

    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        writer.close()

    server = await asyncio.start_unix_server(handle, str(path))
    async with server:
        assert await ask(f"unix:{path}") == 0


# --- TLS


@pytest.fixture
def authority():
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def pair(authority, tmp_path):
    """The proxy's certificate, which does not name loopback."""
    authority.issue_cert("proxy.example").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "pair.pem"))
    return str(tmp_path / "pair.pem")


async def test_the_proxys_own_certificate_need_not_name_loopback(pair, capsys):
    async with running(1, "--tls-cert-file", pair) as proxy:
        assert await ask(f"https://127.0.0.1:{proxy.port}") == 0
        assert await ask("--port", str(proxy.port), "--tls-cert-file", pair) == 0
        assert await ask(f"http://127.0.0.1:{proxy.port}") == 1


async def test_the_certificate_of_another_host_is_verified(pair, capsys, monkeypatch):
    """The name is another one, and leads here."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **rest: real("127.0.0.1", *more, **rest))
    async with running(1, "--tls-cert-file", pair) as proxy:
        assert await ask(f"https://proxy.example:{proxy.port}") == 1

    assert capsys.readouterr().err == "devstral-proxy: not live: TLS: certificate verify failed\n"


async def test_a_proxy_that_demands_a_certificate_lives_and_takes_one(authority, pair, capsys, tmp_path):
    probe = authority.issue_cert("probe@example.org").private_key_and_cert_chain_pem
    probe.write_to_path(str(tmp_path / "probe.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    demands = ("--tls-cert-file", pair, "--tls-client-ca-file", str(tmp_path / "clients.pem"))
    async with running(1, *demands) as proxy:
        url = f"https://127.0.0.1:{proxy.port}"
        assert await ask(url) == 0
        assert await ask("--ready", url) == 1
        assert await ask(url, "--cert-file", str(tmp_path / "probe.pem")) == 0

    out, err = capsys.readouterr()
    assert out == "devstral-proxy: live: it asks for a client's certificate\ndevstral-proxy: live\n"
    assert err == "devstral-proxy: not ready: it asks for a client's certificate, see --cert-file\n"


# --- the command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ftp://127.0.0.1"], "URL: expected"),
        (["http://127.0.0.1:port"], "URL: expected"),
        (["--port", "0"], "port is 0"),
        (["--prot=1"], "did you mean --port"),
        (["https://127.0.0.1:1", "--cert-file", "/nonexistent"], "--cert-file: cannot use"),
    ],
)
def test_what_cannot_be_used_is_an_error_of_the_configuration(arguments, says):
    with pytest.raises(ConfigError, match=says):
        healthcheck(arguments, {})


@pytest.mark.parametrize("arguments", [["--live", "--ready"], ["http://127.0.0.1:1", "--port", "1"], ["--prot", "1"]])
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        healthcheck(arguments, {})

    assert caught.value.code == 2


def test_help_has_examples_and_exit_codes(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["healthcheck", "--help"])

    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert 'HEALTHCHECK CMD ["devstral-proxy", "healthcheck"]' in text
    assert "exit codes: 0 it is, 1 it is not" in text


def test_it_loads_no_server_and_no_client_library(unused_port):
    script = (
        "import json, sys\nfrom proxy.cli import main\n"
        f"code = main(['healthcheck', 'http://127.0.0.1:{unused_port}'])\nprint(json.dumps([code, *sys.modules]))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROXY_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    code, *modules = json.loads(done.stdout)

    assert code == 1
    assert done.stderr == f"devstral-proxy: not live: nothing listens at 127.0.0.1:{unused_port}\n"
    assert {"aiohttp", "asyncio", "rich", "structlog", "uvloop", "prometheus_client"} & set(modules) == set()
