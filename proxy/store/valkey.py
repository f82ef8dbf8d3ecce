"""
The link to a Valkey or Redis server that several instances share: for limits, and for cached answers.

Redis 6.2 and 7, Valkey 8 and later, a single node: a script's keys need not be in one slot of a cluster. There are two
connections, so that a large value does not hold up a decision. Neither is opened before it is needed.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.config import ConfigError
from proxy.store.decision import Count
from proxy.store.lane import Argument, Lane, Script
from proxy.store.standing import Standing, StoreDown, Watch

if TYPE_CHECKING:
    from valkey.asyncio.connection import AbstractConnection

__all__ = ["Script", "StoreDown", "ValkeyLink", "open_link"]

#: Arbitrary: what may wait to be sent, and not be waited for. About 3 MB of settlements.
_MOST_POSTED: Final = 10_000
_MOST_VALUES: Final = 1_024
_MOST_VALUE_BYTES: Final = 16 * 1024 * 1024

#: What a URL may say besides its address; anything else would change how connections behave here.
_OPTIONS: Final = frozenset({"host", "port", "path", "db", "username", "password"})


class Logger(Protocol):
    """What is logged: that the server is away, and that it is back."""

    def info(self, event: str, **fields: Any) -> Any:
        """Write a line of level info."""

    def error(self, event: str, **fields: Any) -> Any:
        """Write a line of level error."""


class ValkeyLink:
    """The link. Every method that waits does so for `timeout_s` at the most; `close()` at the end."""

    def __init__(
        self,
        connect: Callable[[], "AbstractConnection"],
        address: str,
        logger: Logger,
        count: Count,
        timeout_s: float,
    ) -> None:
        self._address = address
        self._logger = logger
        self._count = count
        self._watch = Watch(asyncio.get_running_loop().time, self._tell)
        self._scripts = Lane(
            *(connect(), self._watch, self._drop),
            timeout_s=timeout_s,
            most_posted=_MOST_POSTED,
            most_posted_bytes=_MOST_VALUE_BYTES,
        )
        self._values = Lane(
            *(connect(), self._watch, self._drop),
            timeout_s=timeout_s,
            most_posted=_MOST_VALUES,
            most_posted_bytes=_MOST_VALUE_BYTES,
        )

    @property
    def standing(self) -> Standing:
        """Whether the server can be asked."""
        return self._watch.standing

    def wait_at_most(self, timeout_s: float) -> None:
        """Give later calls this time-out."""
        self._scripts.timeout_s = self._values.timeout_s = timeout_s

    async def script(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Any:
        """
        Run a script; return its reply.

        Raises:
            StoreDown: there is none.
        """
        return await self._scripts.ask(script.command(keys, arguments), script)

    def post_script(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> None:
        """Run a script soon; lost when the server goes away, or when there are too many."""
        self._scripts.post(script.command(keys, arguments), script)

    def post(self, *command: Argument) -> None:
        """Run a command soon; lost in the same way."""
        self._scripts.post(command)

    async def get(self, key: bytes) -> bytes | None:
        """
        Return a value, None if there is none.

        Raises:
            StoreDown: it cannot be asked.
        """
        value: bytes | None = await self._values.ask(("GET", key))
        return value

    def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep a value for so long, soon; lost when the server is away, or when too many bytes wait already."""
        self._values.post(("SET", key, value, "PX", max(1, round(ttl_s * 1000))))

    async def close(self) -> None:
        """Send what is posted, as far as `timeout_s` allows, and close the connections."""
        await asyncio.gather(self._scripts.close(), self._values.close())

    def _drop(self) -> None:
        self._count("dropped")

    def _tell(self, standing: Standing, error: str, down_s: float) -> None:
        if standing is Standing.UP:
            self._logger.info("store_up", store=self._address, down_s=round(down_s, 3))
        else:
            self._count("down")
            self._logger.error("store_down", store=self._address, error=error)


def open_link(url: str, logger: Logger, count: Count, timeout_s: float) -> ValkeyLink:
    """
    Return a link to the server at `url`, of which nothing is logged but its host and port or its path.

    Raises:
        ConfigError: the URL is none, or the package is missing.
    """
    kind, options = _parsed(url)
    address = str(options["path"]) if "path" in options else f"{options['host']}:{options['port']}"

    def connect() -> "AbstractConnection":
        # No time-outs of its own: those are the lane's, for a whole batch. No CLIENT SETINFO, which 6.2 does not know.
        return kind(**options, socket_timeout=None, lib_name=None, lib_version=None)

    return ValkeyLink(connect, address, logger, count, timeout_s)


def check_url(url: str) -> None:
    """
    Raises:
        ConfigError: `open_link` could not use it.
    """
    _parsed(url)


def _parsed(url: str) -> tuple[type["AbstractConnection"], Mapping[str, Any]]:
    try:
        from valkey.asyncio.connection import Connection, parse_url
    except ImportError:
        raise ConfigError("store_url: this needs a package: pip install devstral-proxy[valkey]") from None
    try:
        found: dict[str, Any] = parse_url(url)
    except ValueError:  # its text may quote the URL, and so a password
        raise ConfigError("store_url: it must be redis://, rediss://, valkey://, valkeys:// or unix://") from None
    kind = found.pop("connection_class", Connection)
    unknown = sorted(name for name in found if name not in _OPTIONS and not name.startswith("ssl_"))
    if unknown:
        raise ConfigError(f"store_url: {unknown[0]} cannot be set there")
    if kind.__name__.startswith("Unix"):
        if "path" not in found:
            raise ConfigError("store_url: unix:// needs the path of a socket")
        return kind, found
    return kind, {"host": "localhost", "port": 6379, **found}
