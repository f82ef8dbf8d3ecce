"""The two kinds of runs: with scripted replicas, and with real vLLMs, which are slow to start and to answer."""

import random
from typing import Any, Final

from tests.chaos.clients import Question, numbered
from tests.chaos.outcome import Judge, exactly
from tests.chaos.run import Plan
from tests.chaos.stage import Actor, scripted_replica
from tests.chaos.troubles import Pace
from tests.live.servers import CACHE, free_port, vllm_server

LOGS: Final = CACHE / "devstral-proxy" / "chaos"

#: What tests/live/make_model.py makes the model say.
GREETING: Final = "Hello! How can I help you today?"
#: Tokens of GREETING; the model says one at a time.
GREETING_TOKENS: Final = 9
#: A continued answer may have a few tokens more than the client allowed: see proxy/translate/continuation.py.
_MORE_TOKENS: Final = 4


def scripted(seconds: float, seed: int) -> tuple[Plan, list[Actor]]:
    """Return the plan with tests/chaos/model.py, and its replicas."""
    pace = Pace(gap_s=(0.5, 3.0), away_s=(0.2, 4.0), stopped_s=(0.5, 8.0))
    plan = Plan(
        name="scripted",
        seconds=seconds,
        seed=seed,
        questions=numbered,
        pace=pace,
        width=24,
        pause_s=0.1,
        afterwards=200,
    )
    return plan, [Actor(scripted_replica(LOGS)) for _ in range(2)]


def live(seconds: float, seed: int) -> tuple[Plan, list[Actor]]:
    """Return the plan with two vLLM, and these."""
    pace = Pace(gap_s=(6.0, 18.0), away_s=(0.5, 3.0), stopped_s=(2.0, 20.0), keeps_one=True)
    # two vLLM and their starts share two cores: what is silent there is often only slow
    settings = {
        "FIRST_BYTE_TIMEOUT": "30",
        "BETWEEN_BYTES_TIMEOUT": "15",
        "WEDGE_TIMEOUT": "20",
        "CONNECT_TIMEOUT": "5",
    }
    plan = Plan(
        name="vLLM 0.32",
        seconds=seconds,
        seed=seed,
        questions=greeted,
        pace=pace,
        width=4,
        pause_s=0.5,
        afterwards=12,
        settings={**settings, "HEALTH_INTERVAL": "2", "EJECT_TIME": "1"},
    )
    return plan, [Actor(vllm_server("v13", free_port())) for _ in range(2)]


def greeted(rng: random.Random, number: int) -> Question:
    """A question for the model of tests/live: the greeting, or the greeting again and again up to a limit."""
    fields: dict[str, Any] = {"stream": rng.random() < 0.7, "temperature": 0}
    if rng.random() < 0.2:
        return Question({**fields, "messages": [{"role": "user", "content": f"Hi {number}"}]}, exactly(GREETING))
    limit = rng.randint(20, 120)
    messages = [{"role": "user", "content": f"A long answer to {number}, please."}]
    leaves_s = rng.uniform(0, 3) if rng.random() < 0.05 else None
    return Question({**fields, "messages": messages, "max_tokens": limit}, repeated(limit), leaves_s)


def repeated(limit: int) -> Judge:
    """Return the judge of an answer that must be GREETING again and again, `limit` tokens long."""

    def begins(text: str) -> bool:
        return (GREETING * (len(text) // len(GREETING) + 1)).startswith(text)

    def problem(text: str) -> str:
        tokens = text.count(GREETING) * GREETING_TOKENS
        is_long = limit - GREETING_TOKENS < tokens <= limit + _MORE_TOKENS
        return (
            "" if begins(text) and is_long else f"{len(text)} characters, {tokens} tokens of {limit}: {text[-120:]!r}"
        )

    return Judge(problem, begins, "length")
