"""
Prometheus takes the metrics: its linter has nothing to say, and a real server scrapes a real proxy.

The README's scrape configuration and queries are those that run here. promtool and prometheus are Debian's.
"""

import asyncio
import contextlib
import re
import socket
from pathlib import Path

import aiohttp
import pytest

from proxy.config import Tier
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Do,
    ScriptedUpstream,
    completion,
    event,
    text_chunk,
    whole,
)
from tests.observe.told import samples_of
from tests.process.conftest import running

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
#: Generous: the machine may do something else.
DEADLINE_S = 60
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
LEAKED = completion('[TOOL_CALLS][{"name": "f", "arguments": {}}]')
MALFORMED = completion("")
MALFORMED["choices"][0] |= {
    "message": {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "abcdefgh1", "type": "function", "function": {"name": "f", "arguments": "Paris"}}],
    },
    "finish_reason": "tool_calls",
}
USAGE = {**text_chunk(), "choices": [], "usage": {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}}
BEGUN = [STREAM_HEAD, event(text_chunk("", role="assistant")), 0.01, event(text_chunk("a")), 0.01]
STREAM = [*BEGUN, event(text_chunk("", finish="stop")), event(USAGE), DONE, STREAM_END]
REFUSAL = {"error": {"message": "no", "type": "x"}}

TIGHT = {"default": Tier(requests_per_minute=120)}  # 20 may come at once
#: What the model server does, and what is asked.
EVERYTHING = (
    ([whole(completion())], {}),
    (STREAM, {"stream": True}),
    ([whole(LEAKED)], {"tools": TOOLS}),
    ([whole(MALFORMED)], {"tools": TOOLS}),
    ([*BEGUN, Do.RESET], {"stream": True}),
    ([Do.CLOSE], {}),
    ([whole(REFUSAL, 400)], {}),
    ([whole(REFUSAL, 429)], {}),
    ([whole(REFUSAL, 500)], {}),
    ([whole(b"not JSON")], {}),
)


async def test_promtool_has_nothing_to_say_about_a_proxy_that_has_served_everything(start_proxy, installed):
    promtool = installed("promtool", "prometheus")
    async with ScriptedUpstream(*(script for script, _ in EVERYTHING), [whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, max_attempts=1, eject_after=1000, cache="ask", tiers=TIGHT)
        for _, asked in EVERYTHING:
            async with proxy.chat(**asked) as response:
                await response.read()
        for _ in range(2):
            proxy.session.headers["x-proxy-cache"] = "use"
            async with proxy.chat(temperature=0) as response:
                assert response.status == 200
        async with proxy.session.get(f"{proxy.url}/nowhere") as response:
            assert response.status == 404
        while (await _refused(proxy)) != 429:  # the limit
            pass
        async with proxy.session.get(f"{proxy.url}/metrics") as response:
            text = await response.read()

    code, says = await _run(promtool, "check", "metrics", stdin=text)
    assert (code, says) == (0, "")
    seen = {sample.name for sample in samples_of(text.decode()) if sample.value}
    for name in ("recovered_calls", "malformed_calls", "upstream_errors", "cache_lookups", "limited", "tokens"):
        assert f"devstral_proxy_{name}_total" in seen


async def _refused(proxy):
    async with proxy.chat() as response:
        return response.status


async def test_the_linter_would_have_something_to_say(installed):
    text = b"# TYPE requests counter\nrequests 1\n"
    code, says = await _run(installed("promtool", "prometheus"), "check", "metrics", stdin=text)

    assert code
    assert "_total" in says


async def _run(*command, stdin=b""):
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    says, _ = await process.communicate(stdin)
    return process.returncode, says.decode()


# --- a real server


def readme_block(language):
    section = README.partition("\n### Prometheus\n")[2].partition("\n## ")[0]
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return block


QUERIES = [line for line in readme_block("promql").splitlines() if not line.startswith("#")]


@contextlib.asynccontextmanager
async def prometheus(program, target, folder):
    """`async with prometheus(path, "127.0.0.1:9090", tmp_path) as query`: it scrapes that, by the README's words."""
    config = folder / "prometheus.yml"
    words = readme_block("yaml").replace("127.0.0.1:9090", target).replace("15s", "1s")
    config.write_text(words)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}")
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(program, *flags, stdout=log, stderr=log)

    async def query(promql):
        async with session.get(f"http://{address}/api/v1/query", params={"query": promql}) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    try:
        async with aiohttp.ClientSession() as session:
            await _ready(session, address, process, folder)
            yield query
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(session, address, process, folder):
    async with asyncio.timeout(DEADLINE_S):
        while True:
            assert process.returncode is None, (folder / "prometheus.log").read_text()
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://{address}/-/ready") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)


async def test_prometheus_scrapes_the_proxy_and_answers_the_queries_of_the_readme(installed, tmp_path, unused_port):
    program = installed("prometheus")
    nobody = "http://127.0.0.1:1"  # its breaker opens
    listed = {"object": "list", "data": [{"id": "devstral"}]}
    async with (
        ScriptedUpstream([whole(listed)], STREAM) as upstream,
        running(
            2, "--metrics-port", str(unused_port), "--balance", "round_robin", VLLM_BASE=f"{upstream.url},{nobody}"
        ) as group,
        prometheus(program, f"127.0.0.1:{unused_port}", tmp_path) as query,
        aiohttp.ClientSession() as session,
    ):
        async with session.get(f"{group.url}/v1/models") as response:
            assert response.status == 200
        expected = set(QUERIES)
        answers = {}
        async with asyncio.timeout(DEADLINE_S):
            while expected - {promql for promql, result in answers.items() if result}:
                body = {"model": "devstral", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
                async with session.post(f"{group.url}/v1/chat/completions", json=body) as response:
                    await response.read()
                answers = {promql: await query(promql) for promql in QUERIES}
                await asyncio.sleep(0.1)
        up = await query("up")

    assert [(result["metric"]["job"], result["value"][1]) for result in up] == [("devstral-proxy", "1")]
    assert len(QUERIES) == 6
    [by_model] = [result for promql, result in answers.items() if "gen_ai_" in promql]
    assert "devstral" in {each["metric"]["gen_ai_request_model"] for each in by_model}
    [by_kind] = [result for promql, result in answers.items() if "upstream_errors" in promql]
    assert "connect_refused" in {each["metric"]["kind"] for each in by_kind}


@pytest.mark.parametrize("promql", QUERIES)
def test_a_query_asks_for_a_metric_that_there_is(promql):
    table = README[README.index("## Metrics") : README.index("### Prometheus")]
    for name in re.findall(r"\b(?:devstral_proxy|gen_ai)_\w+", re.sub(r"by \(.*?\)", "", promql)):
        assert f"| `{name.removesuffix('_bucket')}` |" in table
