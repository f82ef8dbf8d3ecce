"""
Agents at work: each user has conversations, checked answer by answer; for soaking, not for timing.

A conversation is what a coding agent does: a question, a call, its result, the next turn, and so on, whole or streamed,
with a history that grows by every turn. A stream is read to its end. What was wrong with an answer, such as a stream
without finish reason or [DONE] or a call whose arguments are no JSON, is a failure, and the exit code is 1 then.

Streams have two entries of their own: TTFT, from the request to the first event that says something, and GAP, from each
such event to the next; the POST entry of a stream times its headers. Locust keeps whole milliseconds, and spends about
1 ms of processor time on each request itself, more than the proxy does: the other modules of this folder time.

127.0.0.1 only, at most `MOST_USERS` users for `LONGEST_RUN_S` seconds.

    make bench-locust                                   against the demo upstream
    make bench-locust VLLM_BASE=http://127.0.0.1:8000   against a model server
"""

import random
import time
from typing import Any, Final
from urllib.parse import urlsplit

from locust import HttpUser, between, events, task
from locust.env import Environment

from benchmarks.transcripts import Message, Transcript, problem_of

PATH: Final = "/v1/chat/completions"
MOST_USERS: Final = 50
LONGEST_RUN_S: Final = 600
#: Arbitrary: a history of some thirty messages.
MOST_QUESTIONS: Final = 6
MOST_CALLS: Final = 3
MAX_TOKENS: Final = 96
RESULT: Final = '{"celsius": 21, "sky": "clear", "report": "' + "Light wind from the west. " * 20 + '"}'

QUESTIONS: Final = (
    "What is the weather in Paris?",
    "Please explain the weather in Oslo.",
    "Compare both Rome and Lima.",
    "And in Zürich?",
)
CITY: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Final = [
    {"type": "function", "function": {"name": name, "description": f"Tell the {what} in a city.", "parameters": CITY}}
    for name, what in (("get_weather", "weather"), ("get_time", "time"))
]


@events.init.add_listener
def check_bounds(environment: Environment, **_: Any) -> None:
    """Refuse to load anything but this machine, or without an end."""
    options = environment.parsed_options
    if urlsplit(options.host or "").hostname != "127.0.0.1":
        raise SystemExit("locustfile: --host must be http://127.0.0.1:PORT")
    if not 0 < (options.num_users or 0) <= MOST_USERS or not 0 < (options.run_time or 0) <= LONGEST_RUN_S:
        raise SystemExit(f"locustfile: --users up to {MOST_USERS} and --run-time up to {LONGEST_RUN_S} s are needed")


class Agent(HttpUser):
    """One agent: a conversation after another."""

    wait_time = between(0.0, 0.05)

    @task(1)
    def chat(self) -> None:
        """Ask without tools."""
        self._turn([{"role": "user", "content": "A long story, please."}], "chat", {})

    @task(4)
    def conversation(self) -> None:
        """Ask several times in one conversation; answer every call."""
        history: list[Message] = [{"role": "system", "content": "You are a helpful agent."}]
        for question in random.choices(QUESTIONS, k=random.randint(1, MOST_QUESTIONS)):
            history.append({"role": "user", "content": question})
            if not self._until_text(history):
                return

    def _until_text(self, history: list[Message]) -> bool:
        """Take turns until one has no calls, adding them to the history; return False when one went wrong."""
        for calls_so_far in range(MOST_CALLS + 1):
            # A model that always calls would never be done: the last turn offers no choice.
            choice = "auto" if calls_so_far < MOST_CALLS else "none"
            name = "tool result" if calls_so_far else "question"
            message = self._turn(history, name, {"tools": TOOLS, "tool_choice": choice})
            if message is None:
                return False
            history.append(message)
            calls = message.get("tool_calls") or []
            history += [{"role": "tool", "tool_call_id": call["id"], "content": RESULT} for call in calls]
            if not calls:
                break
        return True

    def _turn(self, history: list[Message], name: str, fields: Message) -> Message | None:
        """Return the answer's message, or None after an answer that counts as a failure."""
        body = {"messages": history, "max_tokens": MAX_TOKENS, **fields}
        return self._streamed(body, name) if random.random() < 0.5 else self._whole(body, name)

    def _whole(self, body: Message, name: str) -> Message | None:
        with self.client.post(PATH, json=body, name=f"{name}, whole", catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return None
            choice = response.json()["choices"][0]
            message: Message = choice["message"]
            if problem := problem_of(message, choice["finish_reason"]):
                response.failure(problem)
                return None
            return message

    def _streamed(self, body: Message, name: str) -> Message | None:
        body, transcript, started = {**body, "stream": True}, Transcript(), time.perf_counter()
        with self.client.post(PATH, json=body, name=f"{name}, stream", stream=True, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return None
            for line in response.iter_lines():
                transcript.read(line, time.perf_counter())
            if problem := transcript.problem():
                response.failure(problem)
                return None
        for second in transcript.arrivals[:1]:
            self._note("TTFT", name, second - started)
        for gap_s in transcript.gaps_s:
            self._note("GAP", name, gap_s)
        return transcript.message()

    def _note(self, kind: str, name: str, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type=kind, name=name, response_time=seconds * 1000, response_length=0, exception=None, context={}
        )
