"""TLS on the listener: who may speak to it, what others get, and the same answers as without it."""

import asyncio
import contextlib
import datetime
import io
import json
import os
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio
import trustme

from proxy.config import Config, ConfigError
from proxy.edge.listener import Listener, listening
from proxy.edge.tls import certificate_name, server_context
from tests.conftest import SHORTCUTS, Proxy
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Do,
    ScriptedUpstream,
    completion,
    event,
    text_chunk,
    until,
    whole,
)

HOST = "127.0.0.1"
YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
STREAM_BODY = json.dumps(
    {"model": "devstral", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
).encode()
STREAM_REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(STREAM_BODY)
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


class Authorities(NamedTuple):
    """Who signs: for servers, for clients, and one whom nobody trusts."""

    servers: trustme.CA
    clients: trustme.CA
    strangers: trustme.CA


@pytest.fixture(scope="module")
def authorities() -> Authorities:
    return Authorities(trustme.CA(), trustme.CA(), trustme.CA())


@pytest.fixture
def files(tmp_path, authorities) -> Callable[..., dict[str, str]]:
    """`files(clients=authorities.clients)`: the settings for a new certificate, and for a demand for clients' ones."""

    def written(*, clients: trustme.CA | None = None, common_name: str = "proxy") -> dict[str, str]:
        pair = authorities.servers.issue_cert(HOST, common_name=common_name)
        pair.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "pair.pem"))
        settings = {"tls_cert_file": str(tmp_path / "pair.pem")}
        if clients is not None:
            clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
            settings["tls_client_ca_file"] = str(tmp_path / "clients.pem")
        return settings

    return written


class TlsProxy:
    """A running proxy that speaks TLS, its listener, and what a client needs to trust it."""

    def __init__(self, proxy: Proxy, listener: Listener, trusting: Callable[..., ssl.SSLContext]) -> None:
        self.proxy = proxy
        self.listener = listener
        self.trusting = trusting
        self.session: aiohttp.ClientSession

    @property
    def log(self) -> Any:
        return self.proxy.log

    @property
    def chat_url(self) -> str:
        return f"https://{HOST}:{self.proxy.port}/v1/chat/completions"

    def chat(self, **fields: Any) -> Any:
        """See `Proxy.chat`."""
        body = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]} | fields
        return self.session.post(self.chat_url, json=body)

    async def raw(
        self, data: bytes = b"", context: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send bytes on a connection of their own."""
        reader, writer = await asyncio.open_connection(HOST, self.proxy.port, ssl=context or self.trusting())
        writer.write(data)
        await writer.drain()
        return reader, writer

    async def read_all(self, context: ssl.SSLContext) -> bytes:
        """Connect, and read: with TLS 1.3 a client is done before the server has looked at its certificate."""
        reader, writer = await self.raw(b"", context)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def refusals(self) -> list[tuple[str, str]]:
        """Wait for the first `tls_refused`; return the reasons and details of all, which have the client's address."""
        await self.log.line("tls_refused")
        lines = self.log.lines("tls_refused")
        assert {line["client_ip"] for line in lines} == {HOST}
        return [(line["reason"], line.get("detail", "")) for line in lines]

    def server_transports(self) -> list[asyncio.Transport]:
        return [connection.transport for connection in self.listener._manager.connections]


StartTls = Callable[..., Awaitable[TlsProxy]]


@pytest_asyncio.fixture
async def start_tls(start_proxy, files, authorities, monkeypatch) -> AsyncIterator[StartTls]:
    """`await start_tls(upstream.url, clients=authorities.clients, header_timeout_s=0.1)`: see `start_proxy`."""

    def trusting(pair: trustme.LeafCert | None = None, **options: Any) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authorities.servers.configure_trust(context)
        for name, value in options.items():
            setattr(context, name, value)
        if pair is not None:
            pair.configure_cert(context)
        return context

    async def started(vllm_base: str, *, clients: trustme.CA | None = None, **settings: Any) -> TlsProxy:
        context = server_context(Config(**files(clients=clients)))
        listeners: list[Listener] = []

        @contextlib.asynccontextmanager
        async def with_tls(edge: Any, sockets: Any) -> AsyncIterator[Listener]:
            async with listening(edge, sockets, context) as listener:
                listeners.append(listener)
                yield listener

        monkeypatch.setattr("tests.conftest.listening", with_tls)
        proxy = TlsProxy(await start_proxy(vllm_base, **settings), listeners[0], trusting)
        connector = aiohttp.TCPConnector(ssl=trusting())
        proxy.session = await running.enter_async_context(aiohttp.ClientSession(connector=connector))
        return proxy

    async with contextlib.AsyncExitStack() as running:
        yield started


# --- the same as without


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_requests_are_answered_one_after_the_other(start_tls, version):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_tls(upstream.url)
        context = proxy.trusting(maximum_version=version)
        context.set_alpn_protocols(["h2", "http/1.1"])
        reader, writer = await proxy.raw(LIVEZ, context)
        first = await reader.readuntil(b"}")
        writer.write(STREAM_REQUEST.replace(b"%d" % len(STREAM_BODY), b"2") + b"[]")
        second = await reader.readuntil(b"}}")
        agreed = writer.get_extra_info("ssl_object")
        writer.close()

    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert second.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert agreed.selected_alpn_protocol() == "http/1.1"
    assert "GCM" in agreed.cipher()[0] or "CHACHA20" in agreed.cipher()[0]


async def test_an_event_goes_out_before_the_next_one_is_there(start_tls):
    seen = asyncio.Event()
    rest = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("a")), seen, *rest]) as upstream:
        proxy = await start_tls(upstream.url)
        async with proxy.chat(stream=True) as response:
            received = b""
            while b'"a"' not in received:
                received += await response.content.readany()
            assert b'"b"' not in received
            seen.set()
            received += await response.content.read()

    assert received.endswith(b"data: [DONE]\n\n")


async def test_large_bodies_go_both_ways_whole(start_tls):
    text = "0123456789abcdef" * 300_000
    body = json.dumps({"model": "devstral", "messages": [{"role": "user", "content": text}]}).encode()
    async with ScriptedUpstream([whole(completion(text))]) as upstream:
        proxy = await start_tls(upstream.url)
        json_type = {"Content-Type": "application/json"}
        async with proxy.session.post(proxy.chat_url, data=io.BytesIO(body), headers=json_type) as response:
            answer = await response.json()

        assert upstream.requests[0].json["messages"][0]["content"] == text
        assert answer["choices"][0]["message"]["content"] == text


FLOOD = [event(text_chunk("x" * 32_000))] * 1250
FLOOD_BYTES = 1250 * 32_000


async def test_a_slow_client_stops_the_upstream_and_gets_everything(start_tls):
    async with ScriptedUpstream(
        [STREAM_HEAD, *FLOOD, event(text_chunk("", finish="stop")), DONE, STREAM_END]
    ) as upstream:
        proxy = await start_tls(upstream.url)
        reader, writer = await proxy.raw(STREAM_REQUEST + STREAM_BODY)
        await reader.readuntil(b"data: ")
        writer.transport.pause_reading()
        [sending] = [connection.transport for connection in upstream._connections]
        left = -1
        while left != sending.get_write_buffer_size():
            left = sending.get_write_buffer_size()
            await asyncio.sleep(0.2)
        [transport] = proxy.server_transports()
        kept = transport.get_write_buffer_size()
        writer.transport.resume_reading()
        received = 0
        async with asyncio.timeout(20):
            while not (piece := await reader.read(1 << 20)).endswith(b"0\r\n\r\n"):
                received += len(piece)
        writer.close()

    assert kept < 256 * 1024
    assert left > FLOOD_BYTES / 3  # the rest is in the buffers of four sockets
    assert received > FLOOD_BYTES


async def test_a_client_that_never_reads_is_ended_by_timeout_s(start_tls, monkeypatch):
    monkeypatch.setattr("proxy.edge.call._LAST_WORDS_S", 0.1)
    async with ScriptedUpstream([STREAM_HEAD, *FLOOD, Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_tls(upstream.url, timeout_s=1.0)
        reader, writer = await proxy.raw(STREAM_REQUEST + STREAM_BODY)
        await reader.readuntil(b"data: ")
        writer.transport.pause_reading()
        line = await proxy.log.line()
        await until(upstream.left.is_set)
        writer.transport.abort()

    assert line["error"] == ("client_disconnect" if SHORTCUTS == "none" else "upstream_timeout")
    assert proxy.proxy.edge.admission.in_flight == 0


def says_goodbye(writer: asyncio.StreamWriter) -> None:
    writer.close()


def hangs_up(writer: asyncio.StreamWriter) -> None:
    """FIN, without the end that TLS has."""
    writer.transport.abort()


def resets(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("leave", [says_goodbye, hangs_up, resets])
async def test_a_client_that_leaves_takes_its_request_upstream_with_it(start_tls, leave):
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("a")), Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_tls(upstream.url)
        reader, writer = await proxy.raw(STREAM_REQUEST + STREAM_BODY)
        await reader.readuntil(b"data: ")
        leave(writer)
        await until(upstream.left.is_set)

        assert (await proxy.log.line())["error"] == "client_disconnect"
        assert proxy.log.lines("library") == []


async def test_headers_that_trickle_end_in_408(start_tls, unused_port):
    proxy = await start_tls(f"http://{HOST}:{unused_port}", header_timeout_s=0.3)
    reader, writer = await proxy.raw(b"POST / HTTP/1.1\r\nHost:")
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"header_timeout_s" in answer
    assert proxy.log.lines("library") == []
    await until(lambda: proxy.proxy.edge.sweep._watches == set())


async def test_a_connection_on_which_nothing_comes_ends_without_an_answer(start_tls, unused_port):
    proxy = await start_tls(f"http://{HOST}:{unused_port}", header_timeout_s=0.1)
    reader, writer = await proxy.raw()
    answer = await reader.read()
    writer.close()

    assert answer == b""


async def test_a_drain_ends_idle_connections_and_lets_a_stream_finish(start_tls):
    more = asyncio.Event()
    rest = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("a")), more, *rest]) as upstream:
        proxy = await start_tls(upstream.url)
        idle, idle_writer = await proxy.raw(LIVEZ)
        await idle.readuntil(b"}")
        reader, writer = await proxy.raw(STREAM_REQUEST + STREAM_BODY)
        await reader.readuntil(b"data: ")
        proxy.listener.close()
        proxy.listener.close_idle()
        assert await idle.read() == b""  # no error: that the connection ends has been said
        with pytest.raises(OSError):
            await proxy.raw()
        more.set()
        stream = await reader.readuntil(b"0\r\n\r\n")
        for each in (writer, idle_writer):
            each.close()

    assert stream.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_slow_client_gets_the_whole_of_an_answer_that_ends_its_connection(start_tls):
    text = "x" * 3_000_000
    async with ScriptedUpstream([whole(completion(text))]) as upstream:
        proxy = await start_tls(upstream.url)
        body = STREAM_BODY.replace(b"true", b"false")
        request = STREAM_REQUEST.replace(b"Host: x", b"Host: x\r\nConnection: close")
        reader, writer = await proxy.raw(request.replace(b"%d" % len(STREAM_BODY), b"%d" % len(body)) + body)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        await asyncio.sleep(0.5)
        writer.transport.resume_reading()
        answer = await reader.read()
        writer.close()

    assert json.loads(answer)["choices"][0]["message"]["content"] == text


# --- who is refused, and how


def of_a_stranger(authorities: Authorities) -> trustme.LeafCert:
    return authorities.strangers.issue_cert("agent.example")


def expired(authorities: Authorities) -> trustme.LeafCert:
    return authorities.clients.issue_cert("agent.example", not_after=YESTERDAY)


def none_at_all(authorities: Authorities) -> None:
    return None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("certificate", "logged", "told"),
    [
        (of_a_stranger, ("certificate_verify_failed", "unable to get local issuer certificate"), "unknown ca"),
        (expired, ("certificate_verify_failed", "certificate has expired"), "certificate expired"),
        (none_at_all, ("peer_did_not_return_a_certificate", ""), ""),
    ],
)
async def test_a_client_without_a_good_certificate_is_refused_and_told_why(
    start_tls, authorities, unused_port, version, certificate, logged, told
):
    proxy = await start_tls(f"http://{HOST}:{unused_port}", clients=authorities.clients)
    context = proxy.trusting(certificate(authorities), maximum_version=version)
    with pytest.raises(ssl.SSLError) as refused:
        await proxy.read_all(context)

    assert await proxy.refusals() == [logged]
    assert told in str(refused.value)
    assert proxy.log.lines("library") == []
    assert "Traceback" not in proxy.log.text


async def test_a_certificate_that_its_holder_signed_is_refused(start_tls, authorities, unused_port, tmp_path):
    alone = trustme.CA()
    (tmp_path / "alone.pem").write_bytes(alone.cert_pem.bytes() + alone.private_key_pem.bytes())
    proxy = await start_tls(f"http://{HOST}:{unused_port}", clients=authorities.clients)
    context = proxy.trusting()
    context.load_cert_chain(tmp_path / "alone.pem")
    with pytest.raises(ssl.SSLError):
        await proxy.read_all(context)

    assert await proxy.refusals() == [("certificate_verify_failed", "self-signed certificate")]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (LIVEZ, "http_request"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "wrong_version_number"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "length_too_short"),
        (b"\0" * 65_536, "wrong_version_number"),
    ],
    ids=["HTTP", "another protocol", "a broken hello", "zeros"],
)
async def test_what_is_not_tls_is_closed_with_one_line(start_tls, unused_port, sent, reason):
    proxy = await start_tls(f"http://{HOST}:{unused_port}")
    reader, writer = await proxy.proxy.raw(sent)
    with contextlib.suppress(ConnectionError):  # what it did not read resets the connection
        answer = await reader.read()
        assert b"HTTP" not in answer
    writer.close()

    assert await proxy.refusals() == [(reason, "")]
    assert proxy.log.lines("library") == []
    assert "Traceback" not in proxy.log.text


async def test_handshakes_that_stand_still_end_in_time_and_hold_up_nobody(start_tls):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_tls(upstream.url, header_timeout_s=0.5)
        clients = [await proxy.proxy.raw(b"\x16\x03\x01\x02\x00"[: number % 5 + 1]) for number in range(50)]
        async with proxy.chat() as response:
            assert response.status == 200
        async with asyncio.timeout(20):
            for reader, writer in clients:
                assert await reader.read() == b""
                writer.close()

        assert await proxy.refusals() == [("header_timeout_s", "")] * 50


async def test_a_handshake_that_trickles_ends_in_the_same_time(start_tls, unused_port):
    proxy = await start_tls(f"http://{HOST}:{unused_port}", header_timeout_s=0.3)
    reader, writer = await proxy.proxy.raw(b"\x16\x03\x01\x02\x00\x01")

    async def trickle() -> None:
        while True:
            writer.write(b"\0")
            await asyncio.sleep(0.02)

    sending = asyncio.ensure_future(trickle())
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            await reader.read()
    sending.cancel()
    writer.close()

    assert await proxy.refusals() == [("header_timeout_s", "")]


async def test_who_only_looks_whether_the_port_is_open_is_not_logged_above_debug(start_tls, unused_port):
    proxy = await start_tls(f"http://{HOST}:{unused_port}")
    _, writer = await proxy.proxy.raw(b"")
    writer.close()
    line = await proxy.log.line("tls_refused")

    assert (line["level"], line["reason"]) == ("debug", "client_left")


async def s_client(port: int, *flags: str, typed: bytes = b"") -> str:
    """What `openssl s_client` says."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"{HOST}:{port}", *flags),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        said, _ = await process.communicate(typed)
    return said.decode(errors="replace")


async def test_tls_1_1_is_refused(start_tls, unused_port):
    proxy = await start_tls(f"http://{HOST}:{unused_port}")
    said = await s_client(proxy.proxy.port, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")

    assert "alert protocol version" in said
    assert await proxy.refusals() == [("unsupported_protocol", "")]


async def test_a_client_cannot_have_the_handshake_done_again(start_tls, unused_port):
    proxy = await start_tls(f"http://{HOST}:{unused_port}")
    said = await s_client(proxy.proxy.port, "-tls1_2", typed=b"R\n")

    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said


async def test_clients_that_come_while_no_file_is_free_are_taken_later(start_tls, unused_port, monkeypatch):
    monkeypatch.setattr("proxy.edge.handshake._RETRY_S", 0.05)
    proxy = await start_tls(f"http://{HOST}:{unused_port}")
    [door] = proxy.listener._doors
    client = socket.socket()
    client.setblocking(False)
    with no_file_free():
        await asyncio.get_running_loop().sock_connect(client, (HOST, proxy.proxy.port))
        await until(lambda: door._pause)
    reader, writer = await asyncio.open_connection(sock=client, ssl=proxy.trusting(), server_hostname=HOST)
    writer.write(LIVEZ)
    answer = await reader.readuntil(b"}")
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert proxy.log.lines("accept_failed")[0]["error"] == "Too many open files"


@contextlib.contextmanager
def no_file_free() -> Iterator[None]:
    """This process cannot open anything meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in taken:
            os.close(each)


async def test_a_handshake_that_is_not_over_does_not_hold_up_the_end(start_tls, unused_port):
    proxy = await start_tls(f"http://{HOST}:{unused_port}", header_timeout_s=60)
    reader, writer = await proxy.proxy.raw(b"\x16")
    await until(lambda: proxy.listener._doors[0]._handshakes)
    async with asyncio.timeout(20):
        await proxy.listener.finish()

    assert await reader.read() == b""
    writer.close()


# --- who a client is


class Transport(asyncio.BaseTransport):
    """What a name is read from."""

    def __init__(self, certificate: Any) -> None:
        super().__init__({"peercert": certificate})


def subject(*names: str) -> tuple[Any, ...]:
    return tuple((("commonName", name),) for name in names)


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (None, None),
        ({}, None),
        ({"subject": subject("alice"), "subjectAltName": (("DNS", "a.example"),)}, "alice"),
        ({"subject": (*subject("alice"), (("organizationName", "x"),))}, "alice"),
        (
            {"subject": (((("organizationName", "x"),),)[0],), "subjectAltName": (("URI", "spiffe://x/a"),)},
            "spiffe://x/a",
        ),
        ({"subject": subject(""), "subjectAltName": (("email", "a@x.example"), ("DNS", "b"))}, "a@x.example"),
        # the same words for every certificate, so no name of one
        ({"subject": (), "subjectAltName": (("othername", "<unsupported>"),)}, None),
        ({"subject": (), "subjectAltName": (("IP Address", "<invalid>"), ("DNS", "b"))}, "b"),
        ({"subject": (), "subjectAltName": (("DirName", subject("c")),)}, None),
    ],
)
def test_a_certificate_has_the_name_of_its_subject_or_its_first_alternative_one(certificate, name):
    assert certificate_name(Transport(certificate)) == name


def test_who_has_left_has_no_name():
    assert certificate_name(None) is None


async def test_the_name_of_a_client_is_at_hand_on_its_connection(start_tls, authorities, unused_port):
    proxy = await start_tls(f"http://{HOST}:{unused_port}", clients=authorities.clients)
    for pair in (
        authorities.clients.issue_cert("agent.example", common_name="alice"),
        authorities.clients.issue_cert("agent.example"),
    ):
        reader, writer = await proxy.raw(LIVEZ, proxy.trusting(pair))
        await reader.readuntil(b"}")
        names = {certificate_name(transport) for transport in proxy.server_transports()}
        writer.close()
        await until(lambda: not proxy.listener._manager.connections)

        assert names == {"alice" if "alice" in str(names) else "agent.example"}


# --- other certificates


def subject_seen(writer: asyncio.StreamWriter) -> str:
    return dict(pair for [pair] in writer.get_extra_info("peercert")["subject"])["commonName"]


async def test_later_connections_get_the_new_certificate_and_others_go_on(start_tls, files, unused_port):
    proxy = await start_tls(f"http://{HOST}:{unused_port}")
    old, old_writer = await proxy.raw(LIVEZ)
    await old.readuntil(b"}")
    context = server_context(Config(**files(common_name="new")))
    assert context is not None
    proxy.listener.use(context)
    new, new_writer = await proxy.raw(LIVEZ)
    old_writer.write(LIVEZ)
    answers = [await reader.readuntil(b"}") for reader in (new, old)]
    seen = [subject_seen(writer) for writer in (new_writer, old_writer)]
    for writer in (new_writer, old_writer):
        writer.close()

    assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 2
    assert seen == ["new", "proxy"]


def ask(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
    """Ask on a new connection, taking up a session; return whether it was, and the next one."""
    with (
        socket.create_connection((HOST, port)) as plain,
        context.wrap_socket(plain, server_hostname=HOST, session=session) as client,
    ):
        client.sendall(LIVEZ)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        return bool(client.session_reused), client.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_authority_that_is_gone_is_not_trusted_any_more_not_even_for_a_session(
    start_tls, files, authorities, unused_port, version
):
    proxy = await start_tls(f"http://{HOST}:{unused_port}", clients=authorities.clients)
    context = proxy.trusting(authorities.clients.issue_cert("agent.example"), maximum_version=version)
    asking = partial(asyncio.to_thread, ask, proxy.proxy.port, context)
    _, session = await asking(None)
    is_resumed, session = await asking(session)
    assert is_resumed  # as long as the context is the same

    replaced = server_context(Config(**files(clients=authorities.strangers)))
    assert replaced is not None
    proxy.listener.use(replaced)
    with pytest.raises(OSError):
        await asking(session)

    assert (await proxy.refusals())[0][0] == "certificate_verify_failed"
    other = proxy.trusting(authorities.strangers.issue_cert("agent.example"), maximum_version=version)
    await asyncio.to_thread(ask, proxy.proxy.port, other, None)


# --- files that cannot be used

SECRET = "canary-5c1e"
BROKEN_KEY = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def folder(tmp_path, authorities):
    """Files, good and bad, by their names."""
    mine, other = authorities.servers.issue_cert(HOST), authorities.servers.issue_cert(HOST)
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(mine.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(SECRET.encode()),
    )
    contents = {
        "cert": mine.cert_chain_pems[0].bytes(),
        "key": mine.private_key_pem.bytes(),
        "other key": other.private_key_pem.bytes(),
        "locked key": locked,
        "broken key": BROKEN_KEY.encode(),
        "garbage": SECRET.encode() * 100,
        "nothing": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("cert", "key", "ca", "message"),
    [
        ("absent", "key", "", "tls_cert_file: cannot read {}/absent: No such file or directory"),
        ("folder", "key", "", "tls_cert_file: cannot read {}/folder: Is a directory"),
        ("garbage", "key", "", "tls_cert_file: cannot use {}/garbage: no certificate or crl found"),
        ("nothing", "key", "", "tls_cert_file: cannot use {}/nothing: no certificate or crl found"),
        ("cert", "absent", "", "tls_key_file: cannot read {}/absent: No such file or directory"),
        ("cert", "other key", "", "tls_key_file: {}/other key is not the key of the certificate in {}/cert"),
        ("cert", "locked key", "", "tls_key_file: the key in {}/locked key is encrypted; give one that is not"),
        ("cert", "broken key", "", "tls_key_file: cannot use {}/broken key as a key for {}/cert: no valid pem"),
        ("cert", "garbage", "", "tls_key_file: cannot use {}/garbage as a key for {}/cert: no valid pem"),
        ("cert", "", "", "tls_cert_file: cannot use {}/cert as a key for {}/cert: no valid pem"),
        ("cert", "key", "absent", "tls_client_ca_file: cannot read {}/absent: No such file or directory"),
        ("cert", "key", "garbage", "tls_client_ca_file: cannot use {}/garbage: no certificate or crl found"),
        ("cert", "key", "nothing", "tls_client_ca_file: cannot use {}/nothing: no certificate or crl found"),
        ("", "key", "", "tls_key_file: there is no tls_cert_file"),
        ("", "", "cert", "tls_client_ca_file: there is no tls_cert_file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_setting_and_not_quoted(folder, cert, key, ca, message):
    names = {"tls_cert_file": cert, "tls_key_file": key, "tls_client_ca_file": ca}
    config = Config(**{setting: str(folder / name) for setting, name in names.items() if name})
    with pytest.raises(ConfigError) as refused:
        server_context(config)

    assert str(refused.value) == message.replace("{}", str(folder))
    assert SECRET not in str(refused.value)


def test_without_a_certificate_there_is_no_tls():
    assert server_context(Config()) is None
