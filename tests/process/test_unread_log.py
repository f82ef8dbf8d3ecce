"""A proxy whose standard output is a pipe that nobody reads any more."""

import asyncio
import signal

import aiohttp
import pytest

from tests.process.conftest import DEADLINE_S, running

#: Their lines are several times what the pipe and this process's reader take.
REQUESTS = 3_000


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_request_is_answered_and_the_process_ends_as_always(workers):
    async with running(workers) as group, aiohttp.ClientSession() as session:

        async def ask(count):
            for _ in range(count):
                async with session.get(f"{group.url}/nothing/{'x' * 100}") as response:
                    assert response.status == 404

        async with asyncio.timeout(3 * DEADLINE_S):
            await asyncio.gather(*(ask(REQUESTS // 10) for _ in range(10)))
        group.send_all(signal.SIGINT)
        # asyncio tells the end of a process when its output has been read
        async with asyncio.timeout(DEADLINE_S):
            await group.process.communicate()

        assert group.process.returncode == 130
