"""What keeps a server from being reached, each fault in words, and what to type."""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from proxy.doctor.checks import CHECKS
from tests.doctor.vllm import Vllm, dated
from tests.fakes import Do, whole

QUICK = ("--timeout", "0.3")


def of_status(checks, status):
    return [name for name, check in checks.items() if check["status"] == status]


@contextlib.asynccontextmanager
async def serving(first_bytes: bytes = b"", context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port of a server that says `first_bytes` to whatever comes, and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(1024)
            writer.write(first_bytes)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def authority():
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def certificate(authority):
    """The server's side of TLS on 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority, tmp_path):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


async def test_all_is_well_with_a_vllm_that_was_started_as_it_should(examine):
    async with Vllm() as vllm:
        code, checks = await examine(vllm.url)

    assert code == 0
    assert of_status(checks, "failed") == of_status(checks, "warning") == []
    assert of_status(checks, "skipped") == ["reasoning parser"]
    assert list(checks) == [check.name for check in CHECKS]


async def test_after_the_first_failure_the_rest_is_left_out_and_says_why(examine, unused_port):
    code, checks = await examine(f"http://127.0.0.1:{unused_port}")

    assert code == 1
    assert (of_status(checks, "ok"), of_status(checks, "failed")) == (["address"], ["connection"])
    assert "nothing listens" in checks["connection"]["says"]
    assert checks["connection"]["fix"] == [f"vllm serve MODEL --host 127.0.0.1 --port {unused_port}"]
    reasons = {check["says"] for check in checks.values() if check["status"] == "skipped"}
    assert reasons == {"not looked at, since this failed: connection"}


async def test_a_name_that_is_none_is_said_to_be_none(examine):
    code, checks = await examine("http://nothing.invalid:8000")

    assert code == 1
    assert of_status(checks, "failed") == ["address"]
    assert checks["address"]["says"].startswith("the name nothing.invalid cannot be resolved: ")


async def test_a_port_that_speaks_something_else_is_quoted(examine):
    async with serving(b"SSH-2.0-OpenSSH_9.2\x1b[2J\r\n") as port:
        code, checks = await examine(f"http://127.0.0.1:{port}", *QUICK)

    assert code == 1
    assert of_status(checks, "failed") == ["http"]
    assert "not HTTP" in checks["http"]["says"]
    assert "SSH-2.0" in checks["http"]["says"]
    assert "\x1b" not in checks["http"]["says"]


async def test_a_connection_that_is_closed_at_once_is_said_to_be(examine):
    async with serving() as port:
        _, checks = await examine(f"http://127.0.0.1:{port}", *QUICK)

    assert checks["http"]["says"] == "the connection was closed without an answer"


async def test_a_port_with_tls_is_told_from_one_without(examine, certificate):
    async with serving(b"HTTP/1.1 200 OK\r\n\r\n", certificate) as port:
        _, checks = await examine(f"http://127.0.0.1:{port}", *QUICK)

    assert (checks["http"]["status"], checks["http"]["fix"]) == ("failed", [f"https://127.0.0.1:{port}"])
    assert "speaks TLS" in checks["http"]["says"]


async def test_a_port_without_tls_is_told_from_one_with(examine):
    async with Vllm() as vllm:
        _, checks = await examine(vllm.url.replace("http:", "https:"), *QUICK)

    assert of_status(checks, "failed") == ["tls"]
    assert checks["tls"]["says"].startswith("the port does not speak TLS")
    assert checks["tls"]["fix"] == [vllm.url]


async def test_a_certificate_of_an_unknown_authority_is_refused_unless_it_is_named(examine, certificate, ca_file):
    async with serving(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", certificate) as port:
        _, refused = await examine(f"https://127.0.0.1:{port}", *QUICK)
        _, trusted = await examine(f"https://127.0.0.1:{port}", *QUICK, "--ca-file", ca_file)

    assert refused["tls"]["says"] == "its certificate is refused: its authority is not trusted here"
    assert refused["tls"]["fix"] == ["--ca-file FILE"]
    assert (trusted["tls"]["status"], trusted["http"]["status"]) == ("ok", "ok")


async def test_a_certificate_for_another_name_is_refused(examine, authority, ca_file):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("gpu1.example").configure_cert(context)
    async with serving(context=context) as port:
        _, checks = await examine(f"https://127.0.0.1:{port}", *QUICK, "--ca-file", ca_file)

    assert checks["tls"]["says"] == "its certificate is refused: it is for another address"


async def test_a_server_that_hangs_is_not_waited_for_longer_than_was_said(examine):
    async with Vllm({"/version": [Do.WAIT_FOR_PEER]}) as vllm:
        code, checks = await examine(vllm.url, *QUICK)

    assert code == 1
    assert checks["http"]["says"] == (
        "it accepts connections and says nothing for 0.3 s: it is stuck, or still starting"
    )


async def test_a_socket_of_this_machine_is_examined_like_a_port(examine, tmp_path):
    path = tmp_path / "vllm.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        bound.listen()
        server = await asyncio.start_unix_server(_not_found, sock=bound)
        async with server:
            _, there = await examine(f"unix:{path}", *QUICK)
    _, closed = await examine(f"unix:{path}", *QUICK)
    _, absent = await examine(f"unix:{path}.absent", *QUICK)

    assert there["http"]["status"] == "ok"
    assert closed["connection"]["says"] == f"nothing listens at {path}: the connection is refused"
    assert absent["address"]["says"] == f"there is no socket {path}.absent: No such file or directory"


async def _not_found(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await reader.read(1024)
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()


# --- idle connections


async def test_a_server_that_closes_idle_connections_too_early_is_told_with_the_setting(examine):
    async with Vllm({"/version": [dated({"version": "0.32.0"}), 0.3, Do.CLOSE]}) as vllm:
        code, checks = await examine(vllm.url, POOL_IDLE="1")

    assert code == 0
    assert checks["keep-alive"]["status"] == "warning"
    assert checks["keep-alive"]["says"].startswith("it closes idle connections after 0.")
    setting, variable = checks["keep-alive"]["fix"]
    shorter = float(setting.removeprefix("devstral-proxy … --pool-idle-s "))
    assert 0 < shorter < 0.3
    assert variable == "VLLM_HTTP_TIMEOUT_KEEP_ALIVE=2 vllm serve …"


async def test_a_server_that_closes_after_each_answer_is_told(examine):
    async with Vllm({"/version": [dated({"version": "0.32.0"}), Do.CLOSE]}) as vllm:
        _, checks = await examine(vllm.url)

    assert checks["keep-alive"]["says"].startswith("it closes each connection after one answer")


async def test_idle_connections_that_live_long_enough_are_well(examine):
    async with Vllm({"/version": [dated({"version": "0.32.0"}), 0.5, Do.CLOSE]}) as vllm:
        _, checks = await examine(vllm.url, POOL_IDLE="0.4")

    assert checks["keep-alive"]["status"] == "ok"


# --- clocks


@pytest.mark.parametrize(("ahead_s", "direction"), [(7200, "ahead of"), (-90, "behind")])
async def test_a_clock_that_is_wrong_is_told_with_how_much(ahead_s, direction, examine):
    async with Vllm({"/version": dated({"version": "0.32.0"}, ahead_s=ahead_s)}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 0
    assert checks["clock"]["status"] == "warning"
    told = re.fullmatch(rf"its clock is (\d+) s {direction} ours", checks["clock"]["says"])
    assert abs(int(told[1]) - abs(ahead_s)) <= 1


async def test_a_server_that_tells_no_time_is_not_judged_by_it(examine):
    async with Vllm({"/version": whole({"version": "0.32.0"})}) as vllm:
        _, checks = await examine(vllm.url)

    assert checks["clock"]["status"] == "skipped"
