"""Traces of real processes: what each worker sends, what is sent at the end, and what is loaded for it."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.edge.test_serve import run_proxy
from tests.fakes import ScriptedUpstream, completion, text_stream, whole
from tests.otlp import Receiver
from tests.process.conftest import DEADLINE_S, counted, ended
from tests.process.test_workers import MOST_TRIES

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="asks Linux what a process has loaded")

ROUTE = "POST /v1/chat/completions"
#: Milliseconds: longer than any test, so that only an end sends what waits.
LATER = "3600000"
#: Of the libraries that encode spans.
LOADED = "google/_upb"
EXPORTED = r'spans_total\{result="exported"\}'


def libraries_of(group):
    return Path(f"/proc/{group.process.pid}/maps").read_text()


async def ask(session, group, **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    async with session.post(f"{group.url}/v1/chat/completions", json=body) as response:
        await response.read()
        return response


async def ask_all_workers(group):
    """Ask on new connections until each worker has been asked; return how often."""
    seen = set()
    body = b'{"messages":[{"role":"user","content":"Hi"}],"stream":true}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    for number in range(1, MOST_TRIES):
        reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
        writer.write(head.encode() + body)
        async with asyncio.timeout(DEADLINE_S):
            await reader.readuntil(b"0\r\n\r\n")
        seen.add(group.worker_at(writer.get_extra_info("sockname")[1]))
        writer.close()
        if seen == group.workers():
            return number
    raise AssertionError("one worker was never asked")


async def test_each_worker_sends_its_own_spans_and_at_sigterm_those_that_wait(start_group):
    async with Receiver() as receiver, ScriptedUpstream([text_stream("Hi")]) as upstream:
        group = await start_group(
            2,
            *("--drain-delay-s", "0"),
            VLLM_BASE=upstream.url,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            OTEL_BSP_SCHEDULE_DELAY=LATER,
        )
        workers = group.workers()
        asked = await ask_all_workers(group)
        assert receiver.bodies == []
        group.send(signal.SIGTERM)
        assert await group.exit_code() == 0

    roots = [span for span in receiver.spans if span.name == ROUTE]
    assert len({span.trace_id for span in roots}) == len(roots) == asked
    assert {span.resource["process.pid"] for span in roots} == workers
    assert len({span.span_id for span in receiver.spans}) == len(receiver.spans)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_receiver_that_does_not_answer_does_not_hold_up_the_end(start_group, workers):
    """The exporter would wait for a minute, and the SDK for half of one: both are longer than this test waits."""
    async with Receiver() as receiver, ScriptedUpstream([whole(completion())]) as upstream:
        receiver.may_answer.clear()
        group = await start_group(
            workers,
            *("--drain-delay-s", "0"),
            VLLM_BASE=upstream.url,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            OTEL_EXPORTER_OTLP_TIMEOUT="60",
            OTEL_BSP_SCHEDULE_DELAY="20",
        )
        async with aiohttp.ClientSession() as session:
            await ask(session, group)
            await receiver.wait_for(lambda: receiver.bodies)
            for _ in range(3):
                assert (await ask(session, group)).status == 200
        group.send(signal.SIGTERM)
        assert (await group.log_line("spans_lost"))["spans"] > 0
        assert await group.exit_code() == 0


async def test_spans_are_counted_over_all_workers(start_group):
    async with Receiver() as receiver, ScriptedUpstream([text_stream("Hi")]) as upstream:
        group = await start_group(
            2, VLLM_BASE=upstream.url, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="20"
        )
        asked = await ask_all_workers(group)
        await receiver.wait_for(lambda: len(receiver.spans) == 7 * asked)
        async with asyncio.timeout(20):
            while await counted(group, EXPORTED) < 7 * asked:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)


async def test_nothing_of_it_is_loaded_without_a_receiver(start_group):
    async with Receiver() as receiver, ScriptedUpstream([whole(completion())]) as upstream:
        traced = await start_group(1, VLLM_BASE=upstream.url, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        plain = await start_group(1, VLLM_BASE=upstream.url)
        async with aiohttp.ClientSession() as session:
            for group in (traced, plain):
                async with session.get(f"{group.url}/metrics") as response:
                    await response.read()
                assert (await ask(session, group)).status == 200
        assert LOADED in libraries_of(traced)
        assert LOADED not in libraries_of(plain)


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None  # as if it were not installed
from proxy.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_without_its_packages_the_start_says_what_to_install(command):
    environment = {"PATH": os.environ["PATH"], "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, command], env=environment, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 78
    assert "pip install devstral-proxy[otel]" in done.stderr


def test_without_its_packages_and_without_a_receiver_all_is_well():
    environment = {"PATH": os.environ["PATH"], "VLLM_BASE": "http://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "check-config"], env=environment, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "devstral-proxy: the configuration is valid\n")


SECRET = "canary-of-a-receiver"

REFUSED = {
    "a protocol that is not spoken": ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
    "a time that is none": ({"OTEL_EXPORTER_OTLP_TIMEOUT": "abc"}, "OTEL_EXPORTER_OTLP_TIMEOUT"),
    "an unknown compression": ({"OTEL_EXPORTER_OTLP_COMPRESSION": "brotli"}, "OTEL_EXPORTER_OTLP_COMPRESSION"),
    "no certificate": ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere.pem"}, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    "a limit that is none": ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "abc"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
    "a share that is none": (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "abc"},
        "OTEL_TRACES_SAMPLER_ARG",
    ),
    "a receiver with a query": ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318?a=b"}, "a query"),
    "a queue that is none": ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "OTEL_BSP_MAX_QUEUE_SIZE"),
    "a delay that is none": ({"OTEL_BSP_SCHEDULE_DELAY": "soon"}, "OTEL_BSP_SCHEDULE_DELAY"),
    "a batch that is larger than the queue": ({"OTEL_BSP_MAX_QUEUE_SIZE": "5"}, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
    "headers that are none": ({"OTEL_EXPORTER_OTLP_HEADERS": SECRET}, "OTEL_EXPORTER_OTLP_HEADERS"),
    "a header with a new line": ({"OTEL_EXPORTER_OTLP_HEADERS": f"a={SECRET}%0d%0ab:c"}, "OTEL_EXPORTER_OTLP_HEADERS"),
    "a URL with a password": (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{SECRET}@127.0.0.1:1"},
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    "a URL that is none": (
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{SECRET}:4317"},
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_used_stops_the_start(name):
    environment, said = REFUSED[name]
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "VLLM_BASE": "http://127.0.0.1:1"} | environment
    process = await run_proxy(**settings)
    message = await ended(process)

    assert process.returncode == 78
    assert said in message
    assert SECRET not in message
