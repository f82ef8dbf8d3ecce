"""
A real vLLM with and without the proxy: time to the first token, gaps between tokens, tokens a second.

    VLLM_BASE=http://127.0.0.1:8000 python -m benchmarks.vllm [--repeats N] [--clients N] [--profile NAME]

Two bodies, whole and streamed: `short`, and `agentic`, a 63 KB history in Mistral's own form, so that the server takes
it without the proxy too. Each repeat sends every shape both ways, in random order, a few requests at once. What the
proxy adds is the median, over repeats, of the figure with it less the one without it in the same repeat.

A model server takes milliseconds to seconds where the proxy takes microseconds: unless the spread is small, the
difference is the server's own noise, and `spread_ms` (from the lower to the upper quarter of the answers' times) shows
it. Every repeat of a body after the first finds its prompt in the server's cache, both ways; the first is not kept.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final, NamedTuple

import aiohttp

from benchmarks import outcome, processes, programs
from benchmarks.bodies import encode, long_chat, short_chat
from benchmarks.programs import BenchmarkError
from benchmarks.transcripts import Transcript, percentile, problem_of

DIRECT: Final = "direct"
PROXY: Final = "proxy"
MAX_TOKENS: Final = 64
_DEADLINE_S: Final = 180
#: A line of an event may be long.
_READ_BYTES: Final = 2**20

CHATS: Final = {"short": short_chat(), "agentic": long_chat("agentic", clean=True)}
SHAPES: Final = tuple((chat, form) for chat in CHATS for form in ("whole", "stream"))

Shape = tuple[str, str]


class Exchange(NamedTuple):
    """One answer. Times are milliseconds; a whole answer has no first token of its own and no gaps."""

    total_ms: float
    first_ms: float | None
    gaps_ms: list[float]
    tokens: int
    problem: str


class Batch(NamedTuple):
    """The answers to requests that were sent at once, and the seconds until the last of them was whole."""

    exchanges: list[Exchange]
    seconds: float

    def figures(self) -> dict[str, float]:
        """Return the medians, the 99th percentile of the gaps, and the tokens a second, all of the good answers."""
        good = [each for each in self.exchanges if not each.problem]
        gaps = [gap for each in good for gap in each.gaps_ms]
        found = {
            "total_ms": percentile([each.total_ms for each in good], 0.5),
            "first_token_ms": percentile([each.first_ms for each in good if each.first_ms is not None], 0.5),
            "gap_p50_ms": percentile(gaps, 0.5),
            "gap_p99_ms": percentile(gaps, 0.99),
            "tokens_per_second": sum(each.tokens for each in good) / self.seconds,
        }
        return {name: value for name, value in found.items() if value is not None}


async def measure(bases: Mapping[str, str], repeats: int, clients: int, headers: Mapping[str, str]) -> Sequence[Any]:
    """
    Return a row for each shape and way, and one with what the proxy adds; `bases` has the URLs of both ways.

    Raises:
        BenchmarkError: the server cannot be reached.
    """
    found: dict[tuple[Shape, str], list[Batch]] = {(shape, way): [] for shape in SHAPES for way in bases}
    order = random.Random(0)
    timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, read_bufsize=_READ_BYTES) as session:
        model = await _model(session, bases[DIRECT])
        for repeat in range(repeats + 1):
            for shape, way in order.sample(list(found), len(found)):
                batch = await _batch(session, bases[way], body_of(shape, model), clients)
                if repeat:
                    found[shape, way].append(batch)
    return [row for shape in SHAPES for row in rows_of(shape, {way: found[shape, way] for way in bases})]


def body_of(shape: Shape, model: str) -> bytes:
    """Return the request's body; its answers are the same every time, as far as the server can do that."""
    chat, form = shape
    streaming = {"stream": True, "stream_options": {"include_usage": True}} if form == "stream" else {}
    return encode({"model": model, "max_tokens": MAX_TOKENS, "temperature": 0, **streaming, **CHATS[chat]})


async def _model(session: aiohttp.ClientSession, base: str) -> str:
    try:
        async with session.get(f"{base}/v1/models") as answer:
            return str((await answer.json())["data"][0]["id"])
    except (aiohttp.ClientError, LookupError, ValueError) as exc:
        raise BenchmarkError(f"{base} does not list its models: {exc}") from exc


async def _batch(session: aiohttp.ClientSession, base: str, body: bytes, clients: int) -> Batch:
    started = time.perf_counter()
    exchanges = await asyncio.gather(*(_exchange(session, base, body) for _ in range(clients)))
    return Batch(list(exchanges), time.perf_counter() - started)


async def _exchange(session: aiohttp.ClientSession, base: str, body: bytes) -> Exchange:
    started = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    try:
        async with session.post(f"{base}/v1/chat/completions", data=body, headers=headers) as answer:
            if answer.status != 200:
                return Exchange(0, None, [], 0, f"status {answer.status}: {(await answer.text())[:200]}")
            read = _streamed if answer.content_type == "text/event-stream" else _whole
            return await read(answer, started)
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError) as exc:
        return Exchange(0, None, [], 0, f"{type(exc).__name__}: {exc}")


async def _whole(answer: aiohttp.ClientResponse, started: float) -> Exchange:
    whole = json.loads(await answer.read())
    total_ms = (time.perf_counter() - started) * 1000
    choice = whole["choices"][0]
    problem = problem_of(choice["message"], choice["finish_reason"])
    return Exchange(total_ms, None, [], whole["usage"]["completion_tokens"], problem)


async def _streamed(answer: aiohttp.ClientResponse, started: float) -> Exchange:
    transcript = Transcript()
    async for line in answer.content:
        transcript.read(line, time.perf_counter())
    total_ms = (time.perf_counter() - started) * 1000
    first_ms = (transcript.arrivals[0] - started) * 1000 if transcript.arrivals else None
    gaps_ms = [gap * 1000 for gap in transcript.gaps_s]
    return Exchange(total_ms, first_ms, gaps_ms, transcript.tokens, transcript.problem())


def rows_of(shape: Shape, batches: Mapping[str, Sequence[Batch]]) -> list[dict[str, Any]]:
    """Return a row for each way, and the row of the difference, from the batches of one shape in order of repeats."""
    figures = {way: [batch.figures() for batch in of_way] for way, of_way in batches.items()}
    rows = [_row(shape, way, figures[way], batches[way]) for way in batches]
    pairs = list(zip(figures[PROXY], figures[DIRECT], strict=True))
    names = [name for name in pairs[0][1] if all(name in each for pair in pairs for each in pair)]
    added = {name: median(through[name] - direct[name] for through, direct in pairs) for name in names}
    return [*rows, {"body": shape[0], "form": shape[1], "way": "added", **added}]


def _row(shape: Shape, way: str, figures: Sequence[Mapping[str, float]], batches: Sequence[Batch]) -> dict[str, Any]:
    totals = [each.total_ms for batch in batches for each in batch.exchanges if not each.problem]
    names = dict.fromkeys(name for each in figures for name in each)
    problems = [each.problem for batch in batches for each in batch.exchanges if each.problem]
    if problems:
        print(f"{shape[0]}, {shape[1]}, {way}: {problems[0]}", file=sys.stderr)
    return {
        "body": shape[0],
        "form": shape[1],
        "way": way,
        **{name: median(each[name] for each in figures if name in each) for name in names},
        "spread_ms": (percentile(totals, 0.75) or 0) - (percentile(totals, 0.25) or 0),
        "failed": len(problems),
    }


def main() -> int:
    """Measure, print, write results/vllm.json; return 1 when it could not be measured or an answer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--clients", type=int, default=4, help="requests at once")
    parser.add_argument("--profile", default="vllm-mistral-tokenizer", help="the proxy's, for this server")
    arguments = parser.parse_args()
    programs.stop_all_on_sigterm()
    base = os.environ.get("VLLM_BASE", "").rstrip("/").removesuffix("/v1")
    try:
        if not base:
            raise BenchmarkError("VLLM_BASE=http://HOST:PORT has to name the vLLM; `make vllm` starts a small one.")
        rows = _with_proxy(base, arguments)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    outcome.keep("vllm", rows, repeats=arguments.repeats, clients=arguments.clients)
    print(outcome.table(rows))
    return 1 if any(row.get("failed") for row in rows) else 0


def _with_proxy(base: str, arguments: argparse.Namespace) -> Sequence[Any]:
    key = os.environ.get("VLLM_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with ExitStack() as running:
        proxy = programs.start_proxy(
            base, programs.processors()[0], profile=arguments.profile, **({"vllm_api_key": key} if key else {})
        )
        running.callback(proxy.stop)
        processes.spread(proxy.pid)
        bases = {DIRECT: base, PROXY: proxy.url}
        return asyncio.run(measure(bases, arguments.repeats, arguments.clients, headers))


if __name__ == "__main__":
    sys.exit(main())
