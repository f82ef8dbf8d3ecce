"""What an agent makes of a stream, and what it calls wrong."""

import json
from typing import Any

import pytest

from benchmarks.transcripts import Transcript, percentile

CALL = {"index": 0, "id": "abc123def", "function": {"name": "get_weather", "arguments": '{"city": '}}
REST = {"index": 0, "function": {"arguments": '"Paris"}'}}


def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish_reason}]}).encode()


def read(*lines: bytes) -> Transcript:
    transcript = Transcript()
    for second, line in enumerate(lines):
        transcript.read(line, second)
    return transcript


DONE = b"data: [DONE]"
END, END_OF_CALL = event({}, "stop"), event({}, "tool_calls")


def test_a_call_is_put_together_from_its_parts() -> None:
    transcript = read(event({"tool_calls": [CALL]}), event({"tool_calls": [REST]}), END_OF_CALL, DONE)

    [call] = transcript.message()["tool_calls"]
    assert call["id"] == "abc123def"
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert transcript.problem() == ""


def test_times_are_those_of_events_that_say_something() -> None:
    transcript = read(
        event({"role": "assistant", "content": ""}), event({"content": "a"}), b"", event({"content": "b"})
    )

    assert transcript.arrivals == [1, 3]
    assert transcript.gaps_s == [2]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([event({"content": "a"}), END, DONE], ""),
        ([event({"content": "a"}), END], "no [DONE]"),
        ([event({"content": "a"}), DONE], "no finish_reason"),
        ([END, DONE], "neither text nor a call"),
        ([event({}, "length"), DONE], ""),
        ([event({"tool_calls": [CALL]}), event({}, "length"), DONE], ""),
        ([event({"tool_calls": [{**CALL, "id": None}]}), END_OF_CALL, DONE], "a call without id or name"),
        ([b'data: {"error": {"message": "gone"}}', DONE], "an error: {'message': 'gone'}"),
    ],
)
def test_what_is_wrong_with_a_stream_is_said(lines: list[bytes], problem: str) -> None:
    assert read(*lines).problem() == problem


def test_arguments_that_are_no_json_are_wrong() -> None:
    assert "no JSON object" in read(event({"tool_calls": [CALL]}), END_OF_CALL, DONE).problem()


@pytest.mark.parametrize(("times", "share", "expected"), [([3, 1, 2], 0.5, 2), ([1, 2], 1.0, 2), ([], 0.5, None)])
def test_a_percentile_is_one_of_the_times(times: list[float], share: float, expected: float | None) -> None:
    assert percentile(times, share) == expected
