"""
Recorded and written streams, byte for byte: `cases/stream/NAME.sse` becomes `NAME.PROFILE.sse`.

`NAME.json` holds what the request left behind for the answer; the recorded ones are live vLLM 0.32's. A golden file
is written by hand or read carefully: `UPDATE_GOLDEN=1 pytest tests/translate/test_stream.py` writes what comes out.
"""

import json
import os
from pathlib import Path

import pytest

from proxy.translate.profile import PROFILE_NAMES, build_profile
from proxy.translate.stream import State
from tests.translate.answers import DONE, TOOLS, assembled, expect, play

CASES = Path(__file__).parents[1] / "cases" / "stream"
INPUTS = sorted(path.stem for path in CASES.glob("*.json"))
DEFAULT = "vllm-mistral-tokenizer"

#: What each profile does differently is shown on a few streams; the default profile runs on all.
PAIRS = [(name, DEFAULT) for name in INPUTS] + [
    ("hf-named", "vllm-hf-template"),
    ("no-parser-two-calls", "vllm-hf-template"),
    ("hosted-calls", "mistral-api"),
    ("hosted-thinking", "mistral-api"),
]

#: What the upstream did wrong, in the code of the error that the client gets.
FAILURES = {
    "swallowed": "tool_call_swallowed",
    "cut-off": "upstream_disconnected",
    "cut-in-event": "upstream_disconnected",
    "engine-killed": 500,
    "malformed-event": "malformed_upstream_answer",
}


def played(name, profile, **kwargs):
    facts = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
    facts.setdefault("tool_names", TOOLS)
    facts["custom_tools"] = frozenset(facts.get("custom_tools", ()))
    options = build_profile(profile).options
    expectation = expect(**facts)
    expectation = type(expectation)(
        **{field: getattr(expectation, field) for field in expectation.__struct_fields__} | {"options": options}
    )
    return play((CASES / f"{name}.sse").read_bytes(), expectation=expectation, **kwargs)


@pytest.mark.parametrize(("name", "profile"), PAIRS)
def test_a_stream_becomes_its_golden_one(name, profile):
    golden = CASES / f"{name}.{profile}.sse"
    out = played(name, profile).out
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_bytes(out)

    assert out == golden.read_bytes()


def test_every_golden_stream_is_compared():
    assert sorted(path.name for path in CASES.glob("*.*.sse")) == sorted(f"{name}.{p}.sse" for name, p in PAIRS)
    assert {profile for _, profile in PAIRS} == {*PROFILE_NAMES} - {"passthrough"}


@pytest.mark.parametrize("name", INPUTS)
def test_one_byte_at_a_time_gives_the_same_bytes(name):
    assert played(name, DEFAULT, piece=1).out == played(name, DEFAULT).out


@pytest.mark.parametrize("name", [name for name in INPUTS if name not in FAILURES])
def test_a_good_stream_ends_cleanly_and_reads_as_openai_s(name):
    result = played(name, DEFAULT)

    assert result.translator.state is State.CLOSED
    assert result.translator.error is None
    _read_as_client(result)


def _read_as_client(result):
    first = result.chunks[0]
    for part in result.chunks:
        assert [part[key] for key in ("id", "created", "model")] == [first[key] for key in ("id", "created", "model")]
        part.update(id="chatcmpl-1", created=1, model="devstral")
    rewritten = b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in result.chunks)
    messages = assembled(type(result)(_with_head(rewritten) + DONE, result.translator))
    assert messages


def _with_head(stream):
    parts = [json.loads(block[6:]) for block in stream.split(b"\n\n") if block]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "devstral"}
    return b"".join(b"data: " + json.dumps({**part, **head}).encode() + b"\n\n" for part in parts)


@pytest.mark.parametrize(("name", "code"), FAILURES.items())
def test_a_broken_stream_ends_in_an_error_event_and_no_finish_reason(name, code):
    result = played(name, DEFAULT)

    assert result.error["code"] == code
    assert result.translator.state is State.FAILED
    assert result.translator.error is not None
    assert not any(choice["finish_reason"] for part in result.chunks for choice in part.get("choices", ()))


@pytest.mark.parametrize("name", [name for name in INPUTS if name not in FAILURES])
def test_passthrough_changes_nothing(name):
    assert played(name, "passthrough").out == (CASES / f"{name}.sse").read_bytes()


def test_passthrough_still_tells_a_cut_stream_from_a_whole_one():
    result = played("cut-off", "passthrough")

    assert result.out.startswith((CASES / "cut-off.sse").read_bytes())
    assert result.error["code"] == "upstream_disconnected"
