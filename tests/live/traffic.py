"""Send many requests at once, a few in flight, each with a deadline; keep what came back."""

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp

IN_FLIGHT = 6
#: The longest prompt of all takes vLLM about ten seconds on two cores, with five others beside it some forty.
DEADLINE_S = 180


@dataclass(frozen=True)
class Exchange:
    """One request to send; `content_type` None sends none."""

    name: str
    method: str
    path: str
    body: bytes = b""
    content_type: str | None = "application/json"


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: dict[str, str]
    body: bytes
    duration_s: float

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[str]:
        """Return the payload of every event of a streamed answer."""
        lines = self.body.decode().split("\n\n")
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def send_all(base: str, exchanges: Iterable[Exchange]) -> dict[str, Answer]:
    """Send every exchange to `base`; return the answers by name. Raises: TimeoutError, aiohttp.ClientError."""
    return asyncio.run(_send_all(base, list(exchanges)))


async def _send_all(base: str, exchanges: list[Exchange]) -> dict[str, Answer]:
    gate = asyncio.Semaphore(IN_FLIGHT)
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout, skip_auto_headers=["Content-Type"]) as session:
        answers = await asyncio.gather(*(_send(session, base, e, gate) for e in exchanges))
    return dict(zip([e.name for e in exchanges], answers, strict=True))


async def _send(session: aiohttp.ClientSession, base: str, exchange: Exchange, gate: asyncio.Semaphore) -> Answer:
    headers = {"Content-Type": exchange.content_type} if exchange.content_type else {}
    async with gate:
        started = time.monotonic()
        async with session.request(
            exchange.method, base + exchange.path, data=exchange.body or None, headers=headers, allow_redirects=False
        ) as response:
            body = await response.read()
        lowered = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, lowered, body, time.monotonic() - started)
