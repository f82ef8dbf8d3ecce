"""
The demo against the answers of a live vLLM 0.32 to the same requests, and against the proxy's repairs.

What that server refused with a v11 or a v13 tokenizer is refused here; what it took is taken, except where the demo is
stricter on purpose: it imitates a mistral-common of at most 1.11.0, the live server had 1.12.0.
"""

import json
import re
from typing import Any

import aiohttp
import pytest

from proxy.demo import DemoUpstream
from proxy.demo.refusal import Refusal
from proxy.demo.validate import check_request
from proxy.translate.profile import build_profile
from proxy.translate.request import translate_request
from tests.shapes import CASES, CHAT, Shape, legitimate_chats, load_agents, load_shapes

MODES = ("mistral-v11", "mistral-v13")
CONTEXT = 4096

EXTRA_KEY = "a key that the models of mistral-common up to 1.11.0 do not have"
USER_AFTER_TOOL = "`user` after `tool`, an error up to 1.11.0"
LONG_ID = "an id that is not nine alphanumerics; the live server cut it to its last nine first"
TOOL_FIELD = "a tool without a schema or with a null, an error up to 1.11.0"

#: shapes that the live server took and the demo refuses, with the reason
STRICTER = {
    "system text parts with cache_control": EXTRA_KEY,
    "id toolu_": LONG_ID,
    "id 10 chars": LONG_ID,
    "tool_calls extra keys": EXTRA_KEY,
    "fewer results than calls, then user": USER_AFTER_TOOL,
    "tool result first": USER_AFTER_TOOL,
    "parameters missing": TOOL_FIELD,
    "parameters null": TOOL_FIELD,
    "description null": TOOL_FIELD,
    "extra keys in function": EXTRA_KEY,
    "extra keys in tool": EXTRA_KEY,
    "assistant reasoning_details": EXTRA_KEY,
    "assistant reasoning null": EXTRA_KEY,
    "assistant thinking_blocks": EXTRA_KEY,
    "echo with null fields, vLLM's own": EXTRA_KEY,
    "echo with tool calls": EXTRA_KEY,
    "provider metadata on tool message": EXTRA_KEY,
    "name on user": EXTRA_KEY,
    "name on system": EXTRA_KEY,
    "openhands-like (litellm)": EXTRA_KEY,
    "langchain-like": LONG_ID,
}

#: shapes that both refuse, but for another reason or in other words
OTHER_WORDS = {
    "id functions.name:0 (kimi)": LONG_ID,
    "two long ids with the same last 9 chars": LONG_ID,
    "id null literal": "1.12.0 has a text of its own for this id",
    "audio id": EXTRA_KEY,
    "name null on user": EXTRA_KEY,
    "continue-like: tool then user then empty assistant": USER_AFTER_TOOL,
    "add_generation_prompt false, last assistant": "the text up to 1.11.0 names continue_final_message",
    "stop=[\"a\", \"b\", \"c\", \"d\", \"e\"]": "of a union's errors the demo gives the one about the list",
    "context overflow prompt": "a token is a word here",
    "context overflow prompt, no max_tokens": "a token is a word here",
}  # fmt: skip

CHAT_SHAPES = [shape for shape in load_shapes() if shape.path == CHAT]
VLLM = build_profile("vllm-mistral-tokenizer")


def recorded_texts() -> dict[str, str]:
    """Return the live server's error text per shape, as far as it was recorded (about 240 characters)."""
    rows = map(json.loads, (CASES / "shapes.jsonl").read_text(encoding="utf-8").splitlines())
    texts = {row["name"]: row.get("errors", {}) for row in rows if row["path"] == CHAT}
    return {name: text for name, by in texts.items() for text in [by.get(MODES[0]) or by.get(MODES[1])] if text}


def live_statuses(shape: Shape) -> list[int]:
    return [shape.direct[mode] for mode in MODES if mode in shape.direct]


async def send(demo: DemoUpstream, session: aiohttp.ClientSession, shape: Shape) -> tuple[int, Any]:
    """Send a shape as it was recorded; return the status and the decoded answer, None for a stream."""
    headers = {"Content-Type": shape.content_type} if shape.content_type else {}
    data = shape.body(CONTEXT) if shape.method == "POST" else None
    bare = ["Content-Type"]
    async with session.request(
        shape.method, demo.url + CHAT, data=data, headers=headers, skip_auto_headers=bare
    ) as answer:
        return answer.status, await answer.json() if answer.content_type == "application/json" else None


def comparable(text: str) -> str:
    """Return an error text without what depends on the size of a union: the count of errors and the model's name."""
    text = re.sub(r"^\d+ validation errors?", "N validation errors", text)
    return re.sub(r"(ChatCompletion|Custom)\w+Param\b", "Param", text)


@pytest.mark.parametrize("shape", CHAT_SHAPES, ids=lambda shape: shape.name)
async def test_status_is_the_live_servers(demo: DemoUpstream, session: aiohttp.ClientSession, shape: Shape) -> None:
    status, _ = await send(demo, session, shape)
    refused = [status for status in live_statuses(shape) if status != 200]
    if shape.title in STRICTER:
        assert (status, refused) == (400, [])
    else:
        assert status == (refused[0] if refused else 200)


@pytest.mark.parametrize(("title", "text"), recorded_texts().items(), ids=lambda value: str(value)[:40])
async def test_text_is_the_live_servers(
    demo: DemoUpstream, session: aiohttp.ClientSession, title: str, text: str
) -> None:
    shape = next(shape for shape in CHAT_SHAPES if shape.title == title)
    _, answer = await send(demo, session, shape)
    ours, theirs = comparable(answer["error"]["message"]), comparable(text)
    same = ours.startswith(theirs) or theirs.startswith(ours)
    assert same == (title not in OTHER_WORDS)


def test_exceptions_name_shapes() -> None:
    titles = {shape.title for shape in CHAT_SHAPES}
    assert titles >= STRICTER.keys() | OTHER_WORDS.keys()


def refused(body: bytes) -> str | None:
    """Return the text with which the demo refuses `body`, or None."""
    try:
        check_request(json.loads(body), CONTEXT * 32)
    except Refusal as refusal:
        return refusal.message
    return None


@pytest.mark.parametrize("shape", legitimate_chats("mistral-v11"), ids=lambda shape: shape.name)
def test_every_shape_is_taken_after_the_repairs(shape: Shape) -> None:
    assert refused(translate_request(shape.body(CONTEXT), VLLM).body) is None


@pytest.mark.parametrize("agent", load_agents(), ids=lambda agent: f"{agent['name']}, {agent['scenario']}")
def test_every_agent_is_taken_after_the_repairs(agent: dict[str, Any]) -> None:
    assert refused(translate_request(json.dumps(agent["body"]).encode(), VLLM).body) is None


def test_the_repairs_are_needed() -> None:
    agents = [refused(json.dumps(agent["body"]).encode()) for agent in load_agents()]
    texts = "\n".join(text for text in agents if text)
    assert len(agents) - agents.count(None) > len(agents) / 2
    for fault in ("Tool call id was", "Extra inputs are not permitted", "Duplicate tool call id"):
        assert fault in texts
