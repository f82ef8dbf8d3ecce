"""
F36: a step that holds up everybody is seen from outside: the process tells how late its loop runs.

BerriAI/litellm#13546; kolega-ai/kolega-code#151. The bound under load is held by benchmarks/lag.py.
"""

import asyncio
import re

import aiohttp

from tests.edge.test_serve import start_process  # noqa: F401 - a fixture
from tests.fakes import ScriptedUpstream

COUNT = re.compile(r"^devstral_proxy_event_loop_lag_seconds_count (\S+)$", re.M)


async def test_a_serving_process_tells_how_late_its_loop_runs(start_process):  # noqa: F811
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as session, asyncio.timeout(20):
        process = await start_process(VLLM_BASE=upstream.url)
        seen = 0.0
        while seen < 3:  # it looks again and again
            async with session.get(f"{process.url}/metrics") as response:
                seen = float(COUNT.search(await response.text())[1])
