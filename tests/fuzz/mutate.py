"""New inputs out of old ones, by a seeded source of chance."""

import re
from collections.abc import Callable, Sequence
from random import Random

#: Arbitrary: a few times the corpus' largest file.
LONGEST = 16 * 1024

#: What means something to the framer, to JSON, to a chunk or to a rule.
TOKENS = (
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b"\xef\xbb\xbf", b"\x00", b"\xff", b"\xc3"),
    *(b"data: ", b"data:", b"data", b"data:\n\n", b": ping\n\n", b":", b"event: x\n", b"id: 1\n", b"retry: 5\n"),
    *(
        b"data: [DONE]\n\n",
        b"[DONE]",
        b"data: {}\n\n",
        b'data: {"choices":[]}\n\n',
        b'data: {"error":{"code":500}}\n\n',
    ),
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b",", b"null", b"true", b"-1", b"1e999", b"1.0", b"{}", b"[]", b'""'),
    *(b"\\u0000", b"\\ud83d", b"\\n", b'\\"', b"9" * 400, b"[" * 400, b"x" * 400),
    *(
        b'"choices":',
        b'"index":',
        b'"index":1,',
        b'"delta":',
        b'"role":"assistant",',
        b'"content":"',
        b'"content":null',
    ),
    *(b'"finish_reason":', b'"finish_reason":"stop"', b'"finish_reason":"length"', b'"finish_reason":"tool_calls"'),
    *(b'"tool_calls":[', b'"function":{"name":"get_time","arguments":"', b'"arguments":', b'"id":', b'"logprobs":{}'),
    *(b'"usage":{"completion_tokens":9}', b'"error":', b'"reasoning":"', b'"reasoning_content":"', b'"stop_reason":1'),
    *(b"[TOOL_CALLS]", b"[ARGS]", b"[CALL_ID]", b"get_weather", b"get_time{", b"[THINK]", b"[/THINK]", b"<think>"),
    *(b"</think>", b"<response>", b'{\\"city\\":', b"```json\\n", b"Hello", b"abcDEF123"),
    b'data: {"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n',
    b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n',
    b'data: {"id":"a","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"abcDEF123","type":"function",'
    b'"function":{"name":"get_time","arguments":"{"}}]},"finish_reason":null}]}\n\n',
    b'data: {"id":"a","choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}\n\n',
)
_EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r|$)", re.DOTALL)

Mutation = Callable[[bytes, Sequence[bytes], Random], bytes]


def mutated(corpus: Sequence[bytes], chance: Random) -> bytes:
    """Return one input of the corpus after one to six mutations."""
    data = chance.choice(corpus)
    for _ in range(chance.randint(1, 6)):
        data = chance.choice(MUTATIONS)(data, corpus, chance)[:LONGEST]
    return data


def _slice(data: bytes, chance: Random) -> slice:
    start = chance.randint(0, len(data))
    return slice(start, min(len(data), start + chance.choice((1, 2, 8, 40, 200, 1000))))


def _splice(data: bytes, corpus: Sequence[bytes], chance: Random) -> bytes:
    other = chance.choice(corpus)
    return data[: chance.randint(0, len(data))] + other[chance.randint(0, len(other)) :]


def _truncate(data: bytes, _corpus: Sequence[bytes], chance: Random) -> bytes:
    return data[: chance.randint(0, len(data))]


def _flip(data: bytes, _corpus: Sequence[bytes], chance: Random) -> bytes:
    flipped = bytearray(data or b"x")
    flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _duplicate(data: bytes, _corpus: Sequence[bytes], chance: Random) -> bytes:
    part = _slice(data, chance)
    return data[: part.stop] + data[part] * chance.choice((1, 1, 2, 20)) + data[part.stop :]


def _remove(data: bytes, _corpus: Sequence[bytes], chance: Random) -> bytes:
    part = _slice(data, chance)
    return data[: part.start] + data[part.stop :]


def _rechunk(data: bytes, _corpus: Sequence[bytes], chance: Random) -> bytes:
    """Lose, repeat or swap whole events, and perhaps write their line ends another way."""
    events = _EVENT.findall(data)
    picked = [event for event in events for _ in range(chance.choice((0, 1, 1, 1, 1, 1, 1, 2)))]
    if len(picked) > 1:
        one, other = chance.sample(range(len(picked)), 2)
        picked[one], picked[other] = picked[other], picked[one]
    return b"".join(picked).replace(b"\n", chance.choice((b"\n", b"\n", b"\r\n", b"\r")))


def _insert(data: bytes, _corpus: Sequence[bytes], chance: Random) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + chance.choice(TOKENS) + data[at:]


def _replace(data: bytes, _corpus: Sequence[bytes], chance: Random) -> bytes:
    """Put a token in the place of another one, or of any few bytes."""
    old = chance.choice(TOKENS)
    at = data.find(old, chance.randint(0, len(data)))
    part = _slice(data, chance) if at == -1 else slice(at, at + len(old))
    return data[: part.start] + chance.choice(TOKENS) + data[part.stop :]


MUTATIONS: tuple[Mutation, ...] = (_splice, _truncate, _flip, _duplicate, _remove, _rechunk, _insert, _insert, _replace)
