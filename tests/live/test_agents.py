"""Bodies recorded from real agents: a real vLLM behind the proxy answers every one of them."""

import json
import time
from typing import Any

import pytest

from tests.live.bench import FULL_MODES, Bench, note
from tests.live.test_shapes import assert_whole_completion, assert_whole_stream
from tests.live.traffic import Answer, Exchange, send_all
from tests.shapes import CHAT, load_agents

pytestmark = pytest.mark.live
BENCH_MODES = tuple(FULL_MODES)

AGENTS = load_agents()
#: The bodies that set no limit of their own get this one, to spare the two cores.
MAX_TOKENS = 48


@pytest.fixture(scope="session")
def agent_answers(bench: Bench, request: pytest.FixtureRequest) -> dict[str, Answer]:
    started = time.monotonic()
    answers = send_all(bench.proxy, [Exchange(a["name"], "POST", CHAT, limited(a["body"])) for a in AGENTS])
    minutes = (time.monotonic() - started) / 60
    note(request.config, f"{bench.mode}: {len(AGENTS)} bodies of agents in {minutes:.1f} minutes")
    return answers


def limited(body: dict[str, Any]) -> bytes:
    has_limit = "max_tokens" in body or "max_completion_tokens" in body
    return json.dumps(body if has_limit else body | {"max_tokens": MAX_TOKENS}, ensure_ascii=False).encode()


@pytest.mark.parametrize("name", [agent["name"] for agent in AGENTS])
def test_an_agents_request_is_answered(agent_answers: dict[str, Answer], name: str) -> None:
    answer = agent_answers[name]

    assert answer.status == 200, answer.body[:600]
    (assert_whole_stream if answer.is_stream else assert_whole_completion)(answer)
