"""/docs and /redoc without a browser: heads, files, and what is there where the package is not installed."""

import asyncio
import re
import socket
import sys
from base64 import b64encode
from contextlib import suppress
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

import proxy
from proxy.edge.docs import assets
from proxy.edge.docs.assets import NAMES, find_assets
from tests.fakes import until

ROOT = Path(proxy.__file__).parent.parent
PAGES = ["/docs", "/redoc"]


class Read(HTMLParser):
    """What a page loads, and what in it a strict policy would refuse."""

    def __init__(self, text):
        super().__init__()
        self.files, self.links, self.refused = {}, [], []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self._inside = tag
        self.refused += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "script" or given.get("rel") == "stylesheet":
            self.files[given.get("src") or given.get("href")] = given.get("integrity")
        if tag == "a":
            self.links.append(given["href"])
        if tag == "style":
            self.refused.append(tag)

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.refused.append(data)


def policy_of(response):
    directives = (part.strip().split(" ") for part in response.headers["Content-Security-Policy"].split(";"))
    return {name: set(sources) for name, *sources in directives}


@pytest.fixture
async def proxy_(start_proxy, unused_port):
    """A proxy whose model server is down: the pages need none."""
    return await start_proxy(f"http://127.0.0.1:{unused_port}")


# --- pages


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_has_a_policy_by_which_only_its_own_files_run(proxy_, path):
    async with proxy_.session.get(proxy_.url + path) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        policy, headers = policy_of(response), response.headers

    nothing = {"'none'"}
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy.pop(name) == nothing
    assert policy.pop("script-src") == policy.pop("connect-src") == {"'self'"}
    hashes = {source for source in policy.pop("style-src") if not source.startswith("'sha256-")}
    assert hashes == {"'self'"}
    assert policy.pop("img-src") == {"data:"}
    assert policy == ({"worker-src": {"blob:"}} if path == "/redoc" else {})
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_names_files_by_their_content_and_holds_no_script_or_style_itself(proxy_, path):
    async with proxy_.session.get(proxy_.url + path) as response:
        page = Read(await response.text())

    assert page.refused == []
    assert len(page.files) >= 3
    for address, integrity in page.files.items():
        async with proxy_.session.get(proxy_.url + address) as response:
            digest = sha256(await response.read()).digest()
            assert response.status == 200
            assert integrity == f"sha256-{b64encode(digest).decode()}"
            assert address.endswith(f"?v={digest.hex()[:16]}")
            assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Content-Type"].startswith("text/css" if ".css" in address else "text/javascript")
    assert not {"django", "drf_spectacular_sidecar"} & sys.modules.keys()


async def test_pages_and_files_are_for_everybody_where_keys_are_demanded(start_proxy, unused_port):
    proxy_ = await start_proxy(f"http://127.0.0.1:{unused_port}", api_keys="sk-a-key-of-this-test")

    for path in [*PAGES, "/openapi.json", *(f"/docs/assets/{name}" for name in NAMES)]:
        async with proxy_.session.get(proxy_.url + path) as response:
            assert response.status == 200, path
    async with proxy_.session.get(f"{proxy_.url}/v1/models") as response:
        assert response.status == 401


@pytest.mark.parametrize("path", PAGES)
async def test_without_the_package_a_page_says_in_plain_html_what_to_install(proxy_, path, monkeypatch):
    monkeypatch.setattr(assets, "PACKAGE", "drf-spectacular-sidecar-that-nobody-has")
    async with proxy_.session.get(proxy_.url + path) as response:
        assert response.status == 200
        text, policy = await response.text(), policy_of(response)

    page = Read(text)
    assert (page.files, page.refused, page.links) == ({}, [], ["/openapi.json"])
    assert "script-src" not in policy
    assert f"pip install --no-deps drf-spectacular-sidecar=={assets.VERSION}" in text
    async with proxy_.session.get(f"{proxy_.url}/docs/assets/swagger-ui.css") as response:
        assert response.status == 404
        assert (await response.json())["error"]["type"] == "not_found_error"


def test_the_version_that_pages_name_is_the_locked_one():
    lock = (ROOT / "deploy/requirements-docs.txt").read_text(encoding="utf-8")

    assert re.findall(r"^[a-z-]+==\S+", lock, re.MULTILINE) == [f"{assets.PACKAGE}=={assets.VERSION}"]


# --- files


async def test_only_files_of_the_list_are_sent(proxy_):
    outside = [
        *("", "LICENSE", "redoc.standalone.js.map", "pages.py", "docs.js/../pages.py", "../assets/pages.py"),
        *(
            "../../../etc/passwd",
            "%2e%2e/pages.py",
            "..%2fpages.py",
            "%64ocs.js",
            "docs.js%00",
            "docs.js/x",
            "//docs.js",
        ),
    ]
    for name in outside:
        reader, writer = await proxy_.raw(
            f"GET /docs/assets/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
        writer.close()

        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), name
        assert b'"error"' in answer, name


@pytest.mark.parametrize("path", [*PAGES, "/docs/assets/docs.js"])
async def test_nothing_but_get_and_head_is_taken(proxy_, path):
    async with proxy_.session.post(proxy_.url + path) as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    async with proxy_.session.head(proxy_.url + path) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_file_with_another_version_is_asked_for_each_time_and_not_sent_twice(proxy_):
    for query in ("", "?v=0000000000000000", "?w=1"):
        address = f"{proxy_.url}/docs/assets/redoc.standalone.js{query}"
        async with proxy_.session.get(address) as response:
            assert (response.status, response.headers["Cache-Control"]) == (200, "no-cache")
            size = len(await response.read())
            tag = response.headers["ETag"]
        async with proxy_.session.get(address, headers={"If-None-Match": tag}) as response:
            assert (response.status, await response.read()) == (304, b"")

    await until(lambda: len(proxy_.log.lines("request")) == 6)
    sent = [(line["status"], line["bytes_out"]) for line in proxy_.log.lines("request")]
    assert sent == [(200, size), (304, 0)] * 3


async def test_a_connection_is_good_for_the_next_request_after_a_file(proxy_):
    asked = b"GET /docs/assets/docs.css HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    reader, writer = await proxy_.raw(asked + asked + last)
    answer = await reader.read()
    writer.close()

    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answer.endswith(b'{"status":"ok"}')


# --- clients that do not read


LARGEST = "/docs/assets/swagger-ui-bundle.js"


@pytest.fixture
async def client(proxy_):
    """A client that has asked for the largest file, has read a little of it, and reads no more."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", proxy_.port))
        await loop.sock_sendall(client, f"GET {LARGEST} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 200 OK")
        yield client


async def test_a_client_that_leaves_in_the_middle_of_a_file_is_logged_as_one_that_left(proxy_, client):
    client.close()

    line = await proxy_.log.line()
    assert (line["status"], line["error"]) == (499, "client_disconnect")
    assert proxy_.log.lines("unexpected_error") == []


async def test_a_file_that_the_end_of_the_process_cuts_short_ends_its_connection(proxy_, client):
    proxy_.edge.in_flight.cut_off()
    await until(lambda: not proxy_.edge.in_flight)
    received = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(10):  # it would be kept for longer than that
            while piece := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
                received += piece

    assert b"0\r\n\r\n" not in received
    assert b'"error"' not in received[-500:]
    assert len(received) < find_assets()["swagger-ui-bundle.js"].path.stat().st_size
    assert (await proxy_.log.line())["error"] == "shutting_down"
    assert proxy_.log.lines("unexpected_error") == []
