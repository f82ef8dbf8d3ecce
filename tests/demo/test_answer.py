"""
The demo's streams against those of a live vLLM 0.32, event by event, and against its own whole answers.

recorded/*.txt is what that server sent: the request in the second line, then the raw answer (v13- with, noflags-
without a tool parser). Tokens are words here and pieces of words there, so a run of events of one shape counts as one.
"""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.answer import Frame, chunks, completion
from proxy.demo.model import Generation, generate
from proxy.demo.validate import check_request
from tests.demo.requests import TOOLS, chat

RECORDED = Path(__file__).parent / "recorded"
#: the demo has a sentence of its own before a call, and other cuts inside a name
SAYS_OTHERWISE = ("v13-tool-auto-text-then-call", "v13-tool-auto-cut-in-name")


def recorded(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the request and the decoded events of a recording, [DONE] left out after a check."""
    lines = path.read_text(encoding="utf-8").splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return json.loads(lines[1].removeprefix("# ")), [json.loads(event) for event in events]


def spoken(request: dict[str, Any], *, leak: bool = False) -> tuple[Frame, list[Generation]]:
    check_request(request, 4096)
    return Frame("chatcmpl-0", 0, "devstral", 4), [generate(request, leak=leak)] * request.get("n", 1)


def played(request: dict[str, Any], *, leak: bool = False) -> list[dict[str, Any]]:
    """Return the demo's events for a request."""
    frame, said = spoken(request, leak=leak)
    usage = bool(request.get("stream_options", {}).get("include_usage"))
    return list(chunks(frame, said, usage=usage))


def shape(value: Any) -> Any:
    """Return keys and their order, and what a key's value must be exactly; texts and numbers only by type."""
    if isinstance(value, dict):
        return [
            (key, inner if key in ("finish_reason", "role", "type") else shape(inner)) for key, inner in value.items()
        ]
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a client puts together from the first choice: content, and name and arguments per call."""
    content, calls = "", {}
    for choice in (c for event in events for c in event["choices"] if c["index"] == 0):
        content += choice["delta"].get("content", "")
        for part in choice["delta"].get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"name": "", "arguments": ""})
            call["name"] += part["function"].get("name", "")
            call["arguments"] += part["function"]["arguments"]
    return {"content": content, "calls": calls}


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.txt")), ids=lambda path: path.stem)
def test_stream_has_the_recorded_shape(path: Path) -> None:
    request, theirs = recorded(path)
    ours = played(request, leak=path.stem.startswith("noflags"))
    if path.stem == "v13-text-n2":
        # two choices take turns, in no fixed order
        theirs, ours = (
            sorted(events, key=lambda e: [c["index"] for c in e["choices"]] or [9]) for events in (theirs, ours)
        )
    assert [s for s, _ in groupby(map(shape, ours))] == [s for s, _ in groupby(map(shape, theirs))]


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.txt")), ids=lambda path: path.stem)
def test_stream_says_what_was_recorded(path: Path) -> None:
    request, theirs = recorded(path)
    ours = played(request, leak=path.stem.startswith("noflags"))
    assert (joined(ours) == joined(theirs)) == (path.stem not in SAYS_OTHERWISE)


STREAMED = [
    chat(),
    chat(tools=TOOLS),
    chat({"role": "user", "content": "explain both"}, tools=TOOLS),
    chat({"role": "user", "content": "leak both"}, tools=TOOLS),
    chat({"role": "user", "content": "long"}),
    chat(stop="How"),
    chat(tools=TOOLS, tool_choice=None),
    *[chat(tools=TOOLS, max_tokens=limit) for limit in range(3, 12)],
]


@pytest.mark.parametrize("request_", STREAMED, ids=str)
def test_streamed_and_whole_say_the_same(request_: dict[str, Any]) -> None:
    message = completion(*spoken(request_))["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    streamed = joined(played(request_))
    # a call that is cut before its arguments is given {} when whole, and nothing when streamed
    assert [{**call, "arguments": call["arguments"] or "{}"} for call in streamed["calls"].values()] == calls
    assert (streamed["content"].rstrip() if calls else streamed["content"]) == (message["content"] or "")


def test_cut_call_is_length_when_streamed_and_tool_calls_when_whole() -> None:
    request = chat(tools=TOOLS, max_tokens=7)
    assert played(request)[-1]["choices"][0]["finish_reason"] == "length"
    assert completion(*spoken(request))["choices"][0]["finish_reason"] == "tool_calls"


def test_usage_chunk_comes_only_when_asked_for() -> None:
    assert not any("usage" in event for event in played(chat()))
    last = played(chat(stream_options={"include_usage": True}, stream=True))[-1]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "total_tokens": 14, "completion_tokens": 10}


def test_every_choice_has_its_own_call_ids() -> None:
    frame, said = spoken(chat(tools=TOOLS, n=2))
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in completion(frame, said)["choices"]]
    assert len(set(ids)) == 2
