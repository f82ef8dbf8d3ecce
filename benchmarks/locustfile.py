"""
Journeys of a client through a running proxy, checked answer by answer: for soaking, not for timing.

Locust spends about 1 ms of processor time on each request itself, more than the proxy does; benchmarks/run.py times.
It fails (exit code 1) when any answer is wrong. 127.0.0.1 only, at most `MOST_USERS` users for `LONGEST_RUN_S` seconds.

    make bench-locust                                   against the demo upstream
    make bench-locust VLLM_BASE=http://127.0.0.1:8000   against a model server
"""

import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from locust import HttpUser, between, events, task
from locust.env import Environment

PATH: Final = "/v1/chat/completions"
MOST_USERS: Final = 50
LONGEST_RUN_S: Final = 600

WEATHER: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

Message = dict[str, Any]


@events.init.add_listener
def check_bounds(environment: Environment, **_: Any) -> None:
    """Refuse to load anything but this machine, or without an end."""
    options = environment.parsed_options
    if urlsplit(options.host or "").hostname != "127.0.0.1":
        raise SystemExit("locustfile: --host must be http://127.0.0.1:PORT")
    if not 0 < (options.num_users or 0) <= MOST_USERS or not 0 < (options.run_time or 0) <= LONGEST_RUN_S:
        raise SystemExit(f"locustfile: --users up to {MOST_USERS} and --run-time up to {LONGEST_RUN_S} s are needed")


def has_text(message: Message) -> bool:
    return bool(message.get("content"))


def has_calls(message: Message) -> bool:
    return bool(message.get("tool_calls"))


def has_either(message: Message) -> bool:
    return has_text(message) or has_calls(message)


class Agent(HttpUser):
    """One user: questions, tool round trips and streams, in random order."""

    wait_time = between(0.0, 0.05)

    @task(3)
    def plain_chat(self) -> None:
        """Ask, and get a text."""
        self._ask("plain chat", [{"role": "user", "content": "Say hello."}], has_text, max_tokens=64)

    @task(2)
    def tool_round_trip(self) -> None:
        """Get a call, send its result, and get an answer; the call goes back as the client got it."""
        history: list[Message] = [{"role": "user", "content": "What is the weather in Paris?"}]
        message = self._ask("tool call", history, has_calls, tools=[WEATHER], tool_choice="required", max_tokens=128)
        if message is None:
            return
        result = '{"celsius": 21}'
        results = [{"role": "tool", "tool_call_id": call["id"], "content": result} for call in message["tool_calls"]]
        self._ask("tool result", [*history, message, *results], has_either, tools=[WEATHER], max_tokens=128)

    @task(2)
    def stream(self) -> None:
        """Get an answer as a stream that has text, ends in a finish reason, and then in [DONE]."""
        body = {"messages": [{"role": "user", "content": "A long story, please."}], "stream": True, "max_tokens": 64}
        with self.client.post(PATH, json=body, name="stream", stream=True, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            payloads = [line[6:] for line in response.iter_lines() if line.startswith(b"data: ")]
            if problem := problem_of(payloads):
                response.failure(problem)

    def _ask(
        self, name: str, messages: list[Message], is_expected: Callable[[Message], bool], **fields: Any
    ) -> Message | None:
        """Return the answer's message, or None after an answer that counts as a failure."""
        body = {"messages": messages, **fields}
        with self.client.post(PATH, json=body, name=name, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return None
            message: Message = response.json()["choices"][0]["message"]
            if not is_expected(message):
                response.failure(f"not what {is_expected.__name__} wants")
                return None
            return message


def problem_of(payloads: list[bytes]) -> str:
    """Return what is wrong with a stream's events, "" when nothing is."""
    if not payloads or payloads[-1] != b"[DONE]":
        return "no [DONE]"
    choices = [choice for payload in payloads[:-1] for choice in json.loads(payload).get("choices", [])]
    if not any(choice["delta"].get("content") for choice in choices):
        return "no text"
    return "" if any(choice["finish_reason"] for choice in choices) else "no finish_reason"
