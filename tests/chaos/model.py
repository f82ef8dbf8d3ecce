"""
A model server whose every answer can be checked: its text is a function of the question.

    python -m tests.chaos.model PORT

The last user message says what to answer: "say 17 in 40" is the 40 words "17.0 17.1 ... 17.39", so that a word that is
lost, doubled, cut, or of another answer is seen. "every 20" behind it means a word each 20 ms; without it there is no
pause. An assistant message to continue (`continue_final_message`) is gone on from where it ends; one that is no
beginning of the answer gets `NOT_A_BEGINNING`, which no client takes for right. It is as strict with the wire as it
need be for that, and as fast as one process of Python can be: load comes through it.
"""

import asyncio
import contextlib
import re
import signal
import sys
from typing import Any, Final, NamedTuple

import orjson
import uvloop

NOT_A_BEGINNING: Final = "!this is no beginning of the answer!"
_ASKED: Final = re.compile(r"say (\d+) in (\d+)(?: every (\d+))?")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_JSON: Final = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_STREAM: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Asked(NamedTuple):
    """What an answer is to be: `number` names it, `words` is its length, `pause_s` comes before each word."""

    number: int
    words: int
    pause_s: float = 0.0

    @property
    def prompt(self) -> str:
        """The user message that asks for it."""
        return f"say {self.number} in {self.words} every {round(self.pause_s * 1000)}"

    @property
    def text(self) -> str:
        """The whole answer."""
        return " ".join(f"{self.number}.{word}" for word in range(self.words))


def asked_in(body: dict[str, Any]) -> tuple[Asked, str]:
    """Return what a request asks for, and what of it is there already."""
    messages = body["messages"]
    given = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    prompt = next(message["content"] for message in reversed(messages) if message["role"] == "user")
    found = _ASKED.search(prompt)
    assert found is not None, prompt
    number, words, pause_ms = (int(group or 0) for group in found.groups())
    return Asked(number, words, pause_ms / 1000), given


def pieces_of(asked: Asked, given: str) -> list[str]:
    """Return the rest of the answer, word by word."""
    if not asked.text.startswith(given):
        return [NOT_A_BEGINNING]
    return re.findall(r" ?[^ ]+| $", asked.text[len(given) :])


def _completion(asked: Asked, text: str) -> bytes:
    message = {"role": "assistant", "content": text, "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "total_tokens": 3 + asked.words, "completion_tokens": asked.words}
    base = {"id": f"chatcmpl-{asked.number}", "object": "chat.completion", "created": 1, "model": "devstral"}
    return orjson.dumps({**base, "choices": [choice], "usage": usage})


def _event(asked: Asked, delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    base = {"id": f"chatcmpl-{asked.number}", "object": "chat.completion.chunk", "created": 1, "model": "devstral"}
    return _chunk(b"data: %b\n\n" % orjson.dumps({**base, "choices": [choice]}))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_DONE: Final = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_OTHERS: Final = {
    b"/health": _JSON % (200, 0, b""),
    b"/version": _JSON % (200, 20, b'{"version":"0.32.0"}'),
}
_NOT_FOUND: Final = _JSON % (404, 2, b"{}")


class Connection(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self) -> None:
        self._received = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if len(rest) >= size:
            self._received = rest[size:]
            self._answer(head.split(b" ", 2)[1], rest[:size])

    def _answer(self, path: bytes, body: bytes) -> None:
        if path != b"/v1/chat/completions":
            self._transport.write(_OTHERS.get(path, _NOT_FOUND))
            return
        question = orjson.loads(body)
        asked, given = asked_in(question)
        pieces = pieces_of(asked, given)
        if asked.pause_s or question.get("stream"):
            self._task = asyncio.get_running_loop().create_task(self._speak(asked, pieces, question.get("stream")))
        else:
            self._say_whole(asked, pieces)

    async def _speak(self, asked: Asked, pieces: list[str], is_stream: bool) -> None:
        if not is_stream:
            await asyncio.sleep(asked.pause_s * len(pieces))
            self._say_whole(asked, pieces)
            return
        self._transport.write(_STREAM + _event(asked, {"role": "assistant", "content": ""}))
        if asked.pause_s:
            for piece in pieces:
                await asyncio.sleep(asked.pause_s)
                self._transport.write(_event(asked, {"content": piece}))
        else:
            self._transport.write(b"".join(_event(asked, {"content": piece}) for piece in pieces))
        self._transport.write(_event(asked, {}, "stop") + _DONE)

    def _say_whole(self, asked: Asked, pieces: list[str]) -> None:
        body = _completion(asked, "".join(pieces))
        self._transport.write(_JSON % (200, len(body), body))


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until SIGTERM."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=1024)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(int(sys.argv[1])))
