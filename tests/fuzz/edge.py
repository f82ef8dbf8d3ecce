"""
Fuzz target: a running proxy in front of the demo upstream, over real sockets.

Every body gets one whole answer, and none a 5xx: a completion, a stream that ends in `[DONE]`, or an error in OpenAI's
shape. At the end the process is still there, and its log has no error that nobody expected. Limits and the cache are
on, so that their arithmetic sees every body too; the limits have room for all of them.
"""

import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from proxy.demo import DemoUpstream
from tests.log import log_lines

CHAT = "/v1/chat/completions"
#: Generous: the machine may do something else.
DEADLINE_S = 60
_LIMITS = {"default": {"requests_per_minute": 10**9, "tokens_per_day": 2**62, "max_concurrent": 8}}
_ERROR_KEYS = {"message", "type", "param", "code"}


@contextmanager
def opened() -> Iterator[Callable[[bytes], str]]:
    """Run a demo upstream and a proxy with one worker; give what sends a body and looks at the answer."""
    with tempfile.TemporaryDirectory() as folder, _demo() as upstream:
        log = Path(folder) / "log"
        process = _started(log, upstream)
        try:
            with closing(_Client(_port_of(process, log))) as client:
                yield client.check
            assert process.poll() is None, "the proxy has ended"
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE_S)
        assert '"unexpected_error"' not in log.read_text(), "the log has an error that nobody expected"


@contextmanager
def _demo() -> Iterator[str]:
    """Serve the demo upstream, without its pauses, in a thread; give its address."""
    loop = asyncio.new_event_loop()
    demo = DemoUpstream(chunk_delay_s=0)
    loop.run_until_complete(demo.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield demo.url
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(demo.close())
        loop.close()


def _started(log: Path, upstream: str) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    return subprocess.Popen(
        [sys.executable, "-m", "proxy", "serve", "--port", "0", "--workers", "1", "--log-file", str(log)],
        env=inherited | {"VLLM_BASE": upstream, "DRAIN_DELAY": "0", "PROXY_TIERS": json.dumps(_LIMITS), "CACHE": "on"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait for the line that says where the proxy listens."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end and process.poll() is None:
        for line in log_lines(log, "startup"):
            return int(line["port"])
        time.sleep(0.05)
    raise RuntimeError("the proxy did not start")


class _Client:
    """One connection that is kept, and made anew where an answer ends it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def check(self, data: bytes) -> str:
        """Send a body; assert what holds for every answer, and return its status."""
        self._connection.request("POST", CHAT, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        body = response.read()
        kind = (response.getheader("Content-Type") or "").partition(";")[0]
        assert response.status < 500, f"status {response.status}: {body[:300]!r}"
        assert response.status != http.client.TOO_MANY_REQUESTS, "a place that was not given back"
        if response.status != http.client.OK:
            _check_error(json.loads(body))
        elif kind == "text/event-stream":
            _check_stream(body)
        else:
            assert json.loads(body)["object"] == "chat.completion"
        return f"answered with {response.status}"


def _check_error(answer: object) -> None:
    assert isinstance(answer, dict)
    assert answer["error"].keys() == _ERROR_KEYS
    assert isinstance(answer["error"]["message"], str)


def _check_stream(body: bytes) -> None:
    """Whole events, `[DONE]` last; an error event says why the stream ends early."""
    *events, done, rest = body.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b""), "a stream without its end"
    for event in events:
        if event.startswith(b":"):
            continue
        chunk = json.loads(event.removeprefix(b"data: "))
        if "error" in chunk:
            _check_error(chunk)
        else:
            assert chunk["object"] == "chat.completion.chunk"
