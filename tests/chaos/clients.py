"""The clients: so many at once ask and ask again, and what became of every request is kept."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import aiohttp

from tests.chaos.model import Asked
from tests.chaos.outcome import Judge, Kind, Outcome, exactly

#: Above all timers of the proxy in a run together: who has heard nothing by then never will.
DEADLINE_S: Final = 60.0
#: How long a client waits after a refused connection, which costs nobody anything and would be most of all requests.
_REFUSED_S: Final = 0.5
#: Arbitrary: what is kept of answers that are wrong or lost.
_MOST_KEPT: Final = 20


class Question(NamedTuple):
    """A request, how its answer is judged, and when the client leaves by itself, in seconds."""

    fields: dict[str, Any]
    judge: Judge
    leaves_s: float | None = None

    @property
    def is_stream(self) -> bool:
        return bool(self.fields.get("stream"))


#: Makes the n-th question.
Questions = Callable[[random.Random, int], Question]


def numbered(rng: random.Random, number: int) -> Question:
    """A question for tests/chaos/model.py; one in twenty is left by its client."""
    asked = Asked(number, rng.randint(5, 60), rng.choice((0.0, 0.005, 0.02, 0.05)))
    leaves_s = rng.uniform(0, 1.5) if rng.random() < 0.05 else None
    fields = {"messages": [{"role": "user", "content": asked.prompt}], "stream": rng.random() < 0.7}
    return Question(fields, exactly(asked.text), leaves_s)


@dataclass
class Counts:
    """What became of the requests: `outcomes` by kind, `details` by kind and detail, `bad` word for word."""

    outcomes: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    asked: int = 0
    continued: int = 0

    def add(self, question: Question, outcome: Outcome) -> None:
        """Count the one outcome of one request."""
        self.outcomes[outcome.kind.value] += 1
        if outcome.kind in (Kind.WRONG, Kind.LOST):
            if len(self.bad) < _MOST_KEPT:
                self.bad.append(f"{outcome.kind.value}: {outcome.detail}: {question.fields}")
        elif outcome.detail:
            self.details[f"{outcome.kind.value}, {outcome.detail}"] += 1
        self.continued += outcome.is_continued and outcome.kind is Kind.RIGHT


class Clients:
    """`width` clients of the proxy at `url`. `async with` opens their connections."""

    def __init__(self, url: str, questions: Questions, seed: int, width: int, pause_s: float) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._questions = questions
        self._rng = random.Random(seed)
        self._width = width
        self._pause_s = pause_s
        self.counts = Counts()

    async def __aenter__(self) -> "Clients":
        # Two ways, for both are in use: a pool of connections, and one for each request, which spreads over workers.
        self._sessions = [
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=is_fresh))
            for is_fresh in (False, True)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions:
            await session.close()

    async def ask_until(self, ended: asyncio.Event) -> None:
        """Ask until `ended`, and wait for the last answers."""

        async def client() -> None:
            while not ended.is_set():
                kind = await self.ask()
                await asyncio.sleep(_REFUSED_S if kind is Kind.REFUSED else self._rng.uniform(0, 2 * self._pause_s))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._width):
                group.create_task(client())

    async def ask_so_often(self, number: int) -> None:
        """Ask `number` times; no client leaves."""
        turns = iter(range(number))

        async def client() -> None:
            for _ in turns:
                await self.ask(may_leave=False)

        await asyncio.gather(*(client() for _ in range(self._width)))

    async def ask(self, *, may_leave: bool = True) -> Kind:
        """Ask one question, count what became of it, and return that."""
        number, counts = self.counts.asked, self.counts
        counts.asked += 1
        question = self._questions(self._rng, number)
        leaves_s = question.leaves_s if may_leave else None
        try:
            async with asyncio.timeout(DEADLINE_S if leaves_s is None else leaves_s):
                outcome = await self._outcome(question)
        except TimeoutError:
            outcome = Outcome(Kind.LOST if leaves_s is None else Kind.AWAY, "")
        counts.add(question, outcome)
        return outcome.kind

    async def _outcome(self, question: Question) -> Outcome:
        received = bytearray()
        status = 0
        session = self._rng.choice(self._sessions)
        timeout = aiohttp.ClientTimeout(total=None)
        body = {"model": "devstral", **question.fields}
        is_ended = False
        try:
            async with session.post(self._url, json=body, timeout=timeout) as response:
                status = response.status
                async for piece in response.content.iter_any():
                    received += piece
            is_ended = True
        except aiohttp.ClientConnectorError as exc:
            return Outcome(Kind.REFUSED, type(exc).__name__)
        except (aiohttp.ClientError, OSError) as exc:
            if not (status == 200 and question.is_stream):
                return Outcome(Kind.CUT, type(exc).__name__)
        if status == 200 and question.is_stream:
            return question.judge.stream(bytes(received), is_ended=is_ended)
        return question.judge.whole(status, bytes(received))
