"""What a check has at hand: the model server, the gateway, and the ways to ask one about the other."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from tests.kit.client import PATIENCE_S, Answer, Connection, Target, connected
from tests.kit.model import Call, Model, Play, Script, usual
from tests.kit.verdict import Fails, within

CHAT: Final = "/v1/chat/completions"

Message = dict[str, Any]


class Ending(NamedTuple):
    """How the gateway's process is told to end (SIGTERM), and what it returns: None where that cannot be seen."""

    terminate: Callable[[], None]
    exit_code: Callable[[], Awaitable[int | None]]


class Rig:
    """The gateway at `target` with `model` behind it; `other` is a server that nothing should ever go to."""

    def __init__(
        self,
        target: Target,
        model: Model,
        other: Model,
        *,
        name: str = "devstral",
        api_key: str = "",
        silence_s: float = 17.0,
        ending: Ending | None = None,
    ) -> None:
        self.target = target
        self.model = model
        self.other = other
        self.name = name
        self.silence_s = silence_s
        self.ending = ending
        self._key = [("Authorization", f"Bearer {api_key}")] if api_key else []

    def play(self, *scripts: Script | Callable[[Call], Script]) -> Play:
        """Let the model play this for what the row asks; without a script it answers "Hello"."""
        return self.model.play(*(scripts or (usual,)))

    def body(self, play: Play, **fields: Any) -> bytes:
        """Return a request that bears the play's mark; `messages` has to bear it by itself."""
        asked = {"model": self.name, "messages": [user(f"Hi {play.mark}")], **fields}
        return json.dumps(asked).encode()

    def send(self, connection: Connection, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Ask for a chat completion on a connection of one's own."""
        extra = (headers or {}).items()
        own = [] if "Authorization" in (headers or {}) else self._key
        connection.request("POST", CHAT, [("Content-Type", "application/json"), *own, *extra], body)

    @asynccontextmanager
    async def ask(
        self,
        play: Play,
        *,
        headers: Mapping[str, str] | None = None,
        patience_s: float = PATIENCE_S,
        **fields: Any,
    ) -> AsyncIterator[Answer]:
        """
        Ask for a chat completion; the answer's headers are there, its body can be read inside the block.

        Raises:
            Fails: there is no answer.
        """
        async with connected(self.target) as connection:
            self.send(connection, self.body(play, **fields), headers)
            yield await connection.answer(patience_s)

    async def whole(self, play: Play, **fields: Any) -> Answer:
        """Ask, and return the answer when its body was read."""
        async with self.ask(play, **fields) as answer:
            await answer.read()
            return answer

    async def message(self, play: Play, **fields: Any) -> Message:
        """
        Ask for a whole answer; return its message.

        Raises:
            Fails: there is none.
        """
        async with self.ask(play, **fields) as answer:
            found = await answer.json()
            try:
                message: Message = found["choices"][0]["message"]
            except (KeyError, IndexError, TypeError):
                raise Fails(f"{answer.status} instead of an answer") from None
            return message

    async def upstream(self, play: Play, **fields: Any) -> Any:
        """
        Ask, and return the body that arrived at the model.

        Raises:
            Fails: none did.
        """
        answer = await self.whole(play, **fields)
        if not play.calls:
            raise Fails(f"{answer.status}, and nothing went upstream")
        return play.calls[0].json

    async def get(self, path: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Ask for another page; return the answer when its body was read."""
        async with connected(self.target) as connection:
            connection.request(method, path, self._key, body)
            answer = await connection.answer()
            await answer.read()
            return answer

    async def is_serving(self) -> bool:
        """Say whether a plain question is answered."""
        try:
            answer = await self.whole(self.play())
        except Fails:
            return False
        return answer.status == 200


async def reached(play: Play, count: int = 1) -> None:
    """
    Wait until the model has been called.

    Raises:
        Fails: the call does not come.
    """
    async with within(PATIENCE_S, "the request did not reach the model"):
        await play.called(count)


async def settled(play: Play, quiet_s: float = 0.5) -> int:
    """Return how often the model was called, when no further call has come for a while."""
    count = -1
    while count != len(play.calls):
        count = len(play.calls)
        await asyncio.sleep(quiet_s)
    return count


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def text_of(events: Sequence[Any]) -> str:
    """Return the content of a stream's first choice, joined."""
    return "".join(delta.get("content") or "" for delta in deltas(events))


def deltas(events: Sequence[Any]) -> list[dict[str, Any]]:
    """
    Return the deltas of a stream's first choice.

    Raises:
        Fails: an event is neither JSON nor [DONE].
    """
    return [choice.get("delta") or {} for choice in choices(events)]


def choices(events: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the choices of all chunks, in order; see `deltas`."""
    try:
        return [choice for each in events for choice in each.json.get("choices") or ()]
    except ValueError:
        raise Fails("an event is not JSON") from None


def took(since: float) -> str:
    """Return the time since then (`time.monotonic()`), to show."""
    return f"in {max(1, round(1000 * (time.monotonic() - since)))} ms"


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
