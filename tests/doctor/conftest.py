"""The command `doctor` as it is called, in a thread, so that scripted servers go on meanwhile."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from proxy.doctor.command import doctor

Checks = dict[str, dict[str, Any]]
Examine = Callable[..., Awaitable[tuple[int, Checks]]]
#: So that an idle connection is watched for a moment, and not for four seconds.
QUICK = {"POOL_IDLE": "0.15"}


@pytest.fixture
def examine(capsys) -> Examine:
    """`await examine(url, "--model", "m", VLLM_API_KEY="k")`: the exit code, and each check's result by its name."""

    async def examined(url: str, *flags: str, **environment: str) -> tuple[int, Checks]:
        code = await asyncio.to_thread(doctor, [url, "--json", *flags], QUICK | environment)
        data = json.loads(capsys.readouterr().out)
        [server] = data["servers"]
        assert data["ok"] is server["ok"] is (code == 0)
        return code, {check["check"]: check for check in server["checks"]}

    return examined
