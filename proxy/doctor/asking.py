"""
How one server is asked: small questions over HTTP, each within a time and a size, and connections to look at as bytes.

Every question has a connection of its own. No redirect is followed, no proxy of the environment is asked, and nothing
is decompressed. What goes wrong is a `NoAnswer`, which says it in words.
"""

import asyncio
import ssl
from types import TracebackType
from typing import Final, NamedTuple, Self

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from proxy import __version__
from proxy.config import Backend, ConfigError
from proxy.doctor.outcome import quoted

#: The longest wait for anything that needs no model. Arbitrary: a loaded vLLM answers /version within one.
SHORT_S: Final = 10.0
#: Of one answer. Arbitrary: far above a list of models and above a thousand streamed tokens.
LARGEST_BYTES: Final = 8 * 1024 * 1024

#: Transports close in later turns of the loop; those of a handshake that failed belong to nobody who could wait.
_LAST_S: Final = 0.05

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class NoAnswer(Exception):
    """Nothing came that can be read; the text says why, and `fix` what to type."""

    def __init__(self, says: str, *fix: str) -> None:
        super().__init__(says)
        self.says = says
        self.fix = fix


class Answer(NamedTuple):
    """An HTTP answer, whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class Server:
    """One server: `async with Server(backend, timeout_s=60) as server`."""

    def __init__(self, backend: Backend, *, timeout_s: float) -> None:
        """
        `timeout_s` bounds a question that the model answers, and `short_s` all others.

        Raises:
            ConfigError: `ca_file` cannot be used.
        """
        self.backend = backend
        self.timeout_s = timeout_s
        self.short_s = min(SHORT_S, timeout_s)
        self.socket_path = backend.url.removeprefix("unix:") if backend.url.startswith("unix:") else ""
        self.url = URL("http://localhost") if self.socket_path else URL(backend.url)
        self.host = self.url.host or ""
        self.port = self.url.port or 0
        self.trusts = _trusting(backend.ca_file) if self.url.scheme == "https" else None

    async def __aenter__(self) -> Self:
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(path=self.socket_path, force_close=True)
            if self.socket_path
            else aiohttp.TCPConnector(ssl=self.trusts or True, force_close=True)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"devstral-proxy/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._session.close()
        await asyncio.sleep(_LAST_S)

    async def ask(self, method: str, path: str, body: bytes | None = None, *, wait_s: float | None = None) -> Answer:
        """
        Return the answer, whatever its status.

        Raises:
            NoAnswer: there is none within `wait_s` (`short_s` where that is None), or none that is HTTP.
        """
        wait_s = self.short_s if wait_s is None else wait_s
        headers = {} if body is None else {"Content-Type": "application/json"}
        if self.backend.api_key:
            headers["Authorization"] = f"Bearer {self.backend.api_key}"
        url = self.url.joinpath(path.lstrip("/"))
        try:
            async with (
                asyncio.timeout(wait_s),
                self._session.request(method, url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return Answer(response.status, response.headers, await _bounded(response, path))
        except TimeoutError:
            raise NoAnswer(f"{path}: no whole answer within {wait_s:g} s") from None
        except aiohttp.ClientResponseError:
            raise NoAnswer(f"{path}: what came is not HTTP") from None
        except aiohttp.ClientPayloadError:
            raise NoAnswer(f"{path}: the answer was cut") from None
        except aiohttp.ServerDisconnectedError:
            raise NoAnswer(f"{path}: the connection was closed without an answer") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise NoAnswer(f"{path}: {quoted(str(exc))}") from None

    async def connect(self, address: str = "", context: ssl.SSLContext | None = None) -> Streams:
        """
        Open a connection. `address` is one of the host's, `context` begins TLS.

        The caller aborts it: nobody waits for the end of TLS.

        Raises:
            OSError: it cannot be had, or not within `short_s` (TimeoutError).
        """
        async with asyncio.timeout(self.short_s):
            if self.socket_path:
                return await asyncio.open_unix_connection(self.socket_path)
            name = self.host if context else None
            return await asyncio.open_connection(address or self.host, self.port, ssl=context, server_hostname=name)

    def plain_question(self) -> bytes:
        """Return a question that every HTTP server answers and no model, as bytes; it holds no key."""
        path = self.url.joinpath("version").raw_path
        host = self.url.host_port_subcomponent
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode()


async def _bounded(response: aiohttp.ClientResponse, path: str) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > LARGEST_BYTES:
            raise NoAnswer(f"{path}: the answer is larger than {LARGEST_BYTES} bytes")
    return bytes(body)


def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:
        raise ConfigError(f"ca_file: cannot use {ca_file}: {exc.strerror or type(exc).__name__}") from None
