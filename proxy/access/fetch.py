"""
What an issuer publishes, fetched: two documents of JSON, within a time and a size, and from where it was said.

    <issuer>/.well-known/openid-configuration -> jwks_uri -> the key set

No redirect is followed, no proxy of the environment is asked, and nothing is decompressed.
"""

import asyncio
import re
import ssl
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from proxy.config import ConfigError, Issuer, is_loopback

#: For all of it: so long a request may wait. Arbitrary; panva/jose waits as long (`timeoutDuration`).
DEADLINE_S: Final = 5.0
#: Of one document. Arbitrary: a hundred RSA keys of 4096 bits, with their certificates, are about this much.
LARGEST_BYTES: Final = 512 * 1024

_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "devstral-proxy"}


class FetchFailed(Exception):
    """The issuer's documents cannot be had; the text names the cause and quotes nothing of what came."""


class _Metadata(msgspec.Struct):
    issuer: str
    jwks_uri: str


def checked_url(url: str) -> str:
    """
    Return a URL that keys may come from: https, or http on this machine.

    Raises:
        ValueError: it is another one, or holds a user name or a fragment. The text does not quote it.
    """
    try:
        parts = urlsplit(url)
        is_url = bool(parts.hostname) and parts.port != 0 and re.fullmatch(r"[!-~]+", url) is not None
    except ValueError:  # its text quotes a part of the URL
        is_url = False
    if not is_url or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))):
        raise ValueError("expected https://HOST[:PORT][/PATH], or http:// on loopback")
    if "@" in parts.netloc or "#" in url:
        raise ValueError("the URL must not hold a user name, a password or a fragment")
    return url


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata may be: as OpenID Connect Discovery 1.0, 4, has it, and as RFC 8414, 3, where that is not."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{origin}{path}/.well-known/openid-configuration",
        f"{origin}/.well-known/oauth-authorization-server{path}",
    )


class Fetcher:
    """Fetches the key set of one issuer."""

    def __init__(self, issuer: Issuer) -> None:
        """
        Raises:
            ConfigError: `ca_file` cannot be used.
        """
        self.issuer = issuer
        self._ssl: ssl.SSLContext | bool = True
        if issuer.ca_file:
            try:
                self._ssl = ssl.create_default_context(cafile=issuer.ca_file)
            except OSError as exc:
                cause = exc.strerror or type(exc).__name__
                raise ConfigError(f"issuers: ca_file: cannot use {issuer.ca_file}: {cause}") from None

    async def key_set(self) -> bytes:
        """
        Return the text of the key set.

        Raises:
            FetchFailed: it cannot be had.
        """
        try:
            async with asyncio.timeout(DEADLINE_S), self._session() as session:
                url = self.issuer.jwks_url or await self._discovered(session)
                status, body = await _get(session, url, "the key set")
        except TimeoutError:
            raise FetchFailed(f"the key set did not come within {DEADLINE_S:g} s") from None
        if status != 200:
            raise FetchFailed(f"the key set: status {status}")
        return body

    def _session(self) -> aiohttp.ClientSession:
        """One for each time: there are minutes between two, and no connection is kept for so long."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            headers=_HEADERS,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _discovered(self, session: aiohttp.ClientSession) -> str:
        """Return `jwks_uri`. The document must be the issuer's own (OpenID Connect Discovery 1.0, 4.3)."""
        what = "the discovery document"
        for url in metadata_urls(self.issuer.url):
            status, body = await _get(session, url, what)
            if status != 404:
                break
        if status != 200:
            raise FetchFailed(f"{what}: status {status}")
        try:
            found = msgspec.json.decode(body, type=_Metadata)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise FetchFailed(f"{what} is malformed") from None
        if found.issuer != self.issuer.url:
            raise FetchFailed(f"{what} is of another issuer; `url` must be spelled as the issuer spells itself")
        try:
            return checked_url(found.jwks_uri)
        except ValueError as exc:
            raise FetchFailed(f"{what}: jwks_uri: {exc}") from None


async def _get(session: aiohttp.ClientSession, url: str, what: str) -> tuple[int, bytes]:
    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise FetchFailed(f"{what} is compressed, which was not asked for")
            return response.status, await _body(response, what)
    except TimeoutError:  # an OSError too, and who set the time says so
        raise
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise FetchFailed(f"{what} cannot be fetched: {type(exc).__name__}") from exc


async def _body(response: aiohttp.ClientResponse, what: str) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > LARGEST_BYTES:
            raise FetchFailed(f"{what} is larger than {LARGEST_BYTES} bytes")
    return bytes(body)
