"""Real servers, one for each test, and the store behind a link to it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.store import table
from proxy.store.shared import ValkeyStore
from proxy.store.valkey import ValkeyLink, open_link
from tests.store.servers import StoreServer, executables

#: A restart or a stopped server takes longer than a request may wait, and no longer than a test.
TIMEOUT_S = 0.25


class Notes:
    """What is logged and counted."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.counts: list[str] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    error = info

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


@pytest_asyncio.fixture(params=sorted(executables().items()), ids=lambda found: found[0])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreServer]:
    """A server without anything in it."""
    async with StoreServer(request.param[1], tmp_path) as running:
        yield running


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes on without the table's lock, however busy the machine is."""
    monkeypatch.setattr(table, "LONGEST_WAIT_S", 60.0)


@pytest.fixture
def notes() -> Notes:
    """What the links of a test log and count."""
    return Notes()


OpenStore = Callable[[], ValkeyStore]


@pytest_asyncio.fixture
async def link(server: StoreServer, notes: Notes) -> AsyncIterator[ValkeyLink]:
    """A link to the server."""
    opened = open_link(server.url, notes, notes.counts.append, TIMEOUT_S)
    try:
        yield opened
    finally:
        await opened.close()


@pytest_asyncio.fixture
async def store(link: ValkeyLink) -> AsyncIterator[ValkeyStore]:
    """The store behind the link."""
    async with AsyncExitStack() as stack:
        opened = ValkeyStore(link)
        stack.push_async_callback(opened.close)
        yield opened
