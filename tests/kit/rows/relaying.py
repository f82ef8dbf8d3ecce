"""F09 to F12: how events pass."""

import asyncio
import json
import re
import time
from typing import Final

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, chunk, event, text_chunk
from tests.kit.answers import FIRST_PART, LAST_PART
from tests.kit.client import PATIENCE_S
from tests.kit.rig import Rig, text_of, took
from tests.kit.row import Row
from tests.kit.verdict import Fails, Info, within

#: Two, three and four bytes of UTF-8, and what JSON escapes.
TEXTS: Final = ("Grüße, ", "世界 ", "🌍", ' \\n"\r')
_PARTS: Final = (FIRST_PART, *map(text_chunk, TEXTS), LAST_PART)
_MEGABYTES: Final = 3


async def at_once(rig: Rig) -> str:
    """Each event passes before the model sends the next one."""
    seen = [asyncio.Event() for _ in TEXTS]
    steps = [step for text, has in zip(TEXTS, seen, strict=True) for step in (event(text_chunk(text)), has)]
    play = rig.play([STREAM_HEAD, event(FIRST_PART), *steps, event(LAST_PART), DONE, STREAM_END])
    try:
        async with rig.ask(play, stream=True) as answer, within(PATIENCE_S, "an event did not pass"):
            got, expected = "", ""
            for text, has in zip(TEXTS, seen, strict=True):
                expected += text
                while got != expected:
                    got += text_of([await answer.next_event()])
                has.set()
            await answer.events()
    except Fails as exc:
        raise Fails(f"kept back: {exc}") from None
    finally:
        for has in seen:
            has.set()
    return ""


async def says_not_to_buffer(rig: Rig) -> str:
    """A stream says that nobody may keep it back: Cache-Control: no-cache, X-Accel-Buffering: no."""
    async with rig.ask(rig.play([b"".join(_stream())]), stream=True) as answer:
        await answer.events()
        cache = (answer.header("cache-control") or "").lower()
        missing = [] if "no-cache" in cache or "no-store" in cache else ["Cache-Control"]
        missing += [] if answer.header("x-accel-buffering") == "no" else ["X-Accel-Buffering"]
    if missing:
        raise Fails(f"{' and '.join(missing)} missing")
    return ""


def _stream() -> list[bytes]:
    return [STREAM_HEAD, *map(event, _PARTS), DONE, STREAM_END]


async def byte_by_byte(rig: Rig) -> str:
    """A stream that comes byte by byte is the same stream, and its UTF-8 whole."""
    sent = b"".join(_stream())
    return await _arrives(rig, [step for at in range(len(sent)) for step in (sent[at : at + 1], 0.0)])


async def cut_anywhere(rig: Rig) -> str:
    """HTTP chunks that end inside events, inside lines and inside characters change nothing."""
    lines = b"".join(b"data: %b\n\n" % json.dumps(part, ensure_ascii=False).encode() for part in _PARTS)
    lines += b"data: [DONE]\n\n"
    for size in (1, 3, 7, 50):
        pieces = [chunk(lines[at : at + size]) for at in range(0, len(lines), size)]
        await _arrives(rig, [STREAM_HEAD, b"".join(pieces[:-1]), 0.01, pieces[-1], STREAM_END])
    return ""


async def other_line_ends(rig: Rig) -> str:
    """Events with CRLF, without the space after the colon, between comments, are events all the same."""
    lines = [b": a comment\r\n\r\n", *(b"data:%b\r\n\r\n" % json.dumps(part).encode() for part in _PARTS)]
    return await _arrives(rig, [STREAM_HEAD, *map(chunk, lines), chunk(b"data:[DONE]\r\n\r\n"), STREAM_END])


async def _arrives(rig: Rig, script: list[bytes | float]) -> str:
    async with rig.ask(rig.play(script), stream=True) as answer:
        if answer.status != 200:
            raise Fails(f"the client got {answer.status}")
        events = await answer.events()
    if (text := text_of(events)) != "".join(TEXTS):
        raise Fails(f"the text is {text!r}" if text else "no text arrives")
    if not events or events[-1].data != "[DONE]":
        raise Fails("there is no [DONE]")
    return ""


async def large_event(rig: Rig) -> str:
    """One event of three megabytes passes."""
    text = "x" * (_MEGABYTES << 20)
    play = rig.play([STREAM_HEAD, event(text_chunk(text, role="assistant")), event(LAST_PART), DONE, STREAM_END])
    asked_at = time.monotonic()
    async with rig.ask(play, stream=True) as answer:
        found = text_of(await answer.events())
    if found != text:
        raise Fails(f"{len(found)} of {len(text)} characters arrive")
    return took(asked_at)


async def silence(rig: Rig) -> str:
    """A stream that is silent for long is kept open by comments."""
    heard = asyncio.Event()
    play = rig.play([STREAM_HEAD, event(FIRST_PART), event(text_chunk("a")), heard, *_stream()[3:]])
    try:
        async with rig.ask(play, stream=True) as answer:
            while text_of([await answer.next_event()]) != "a":
                pass
            silent_at = time.monotonic()
            try:
                comment = await answer.next_event(rig.silence_s)
            except Fails:
                raise Info(f"no comment in {rig.silence_s:g} s of silence") from None
            if not comment.is_comment:
                raise Fails("an event that the model did not send")
            return f"after {time.monotonic() - silent_at:.0f} s: {re.sub(r'[^ -~]', ' ', comment.data)[:20]}"
    finally:
        heard.set()


ROWS: Final = (
    Row("F09a", at_once, probe="K"),
    Row("F09b", says_not_to_buffer),
    Row("F10a", byte_by_byte, probe="K"),
    Row("F10b", cut_anywhere),
    Row("F10c", other_line_ends),
    Row("F11", large_event, probe="J"),
    Row("F12", silence),
)
