"""What is kept of a stream, in case another upstream has to go on from there."""

import sys

import pytest

from proxy.errors import UpstreamUnavailable, error_event
from proxy.translate.transcript import LONGEST_TEXT, Transcript
from tests.translate.answers import DONE, HEAD, ROLE, call, calls, chunk, event, usage

BEATS = b": keep-alive\n\n"


def heard(*events: bytes) -> Transcript:
    transcript = Transcript()
    for said in events:
        transcript.add(said)
    return transcript


def test_the_text_is_all_content_in_order() -> None:
    transcript = heard(ROLE, chunk({"content": "Zü"}), BEATS + chunk({"content": "rich 👋"}) + chunk({"content": "\n"}))

    assert transcript.text == "Zürich 👋\n"
    assert transcript.pieces == 3


@pytest.mark.parametrize("events", [(), (ROLE,), (BEATS,), (ROLE, chunk({"content": None}), chunk({}))])
def test_an_answer_that_says_nothing_yet_has_an_empty_text(events: tuple[bytes, ...]) -> None:
    assert heard(*events).text == ""
    assert heard(*events).pieces == 0


@pytest.mark.parametrize(
    "said",
    [
        chunk(calls(call(0, "get_time", "{", "abcDEF123"))),
        chunk({"reasoning": "a", "reasoning_content": "a"}),
        chunk({"reasoning": "a"}),
        chunk({"reasoning_content": "a"}),
        chunk({"function_call": {"name": "get_time", "arguments": ""}}),
        chunk({"refusal": "no"}),
        chunk({"audio": {"id": "a"}}),
        chunk({"content": "b"}, index=1),
        chunk({}, "stop"),
        chunk({"content": "b"}, "length"),
        event({**HEAD, "choices": [{"index": 0, "delta": {"content": "b"}, "logprobs": {"content": []}}]}),
        event({**HEAD, "choices": [{"index": 0, "delta": {"content": [{"type": "text", "text": "b"}]}}]}),
        error_event(UpstreamUnavailable("gone")),
        DONE,
        b"data: {broken\n\n",
        b"event: other\n\n",
        chunk({"content": "~"}).replace(b"~", b"\xff"),
    ],
    ids=lambda said: said[-60:].decode("utf-8", "replace"),
)
def test_what_no_other_upstream_can_go_on_from_ends_the_text_for_good(said: bytes) -> None:
    transcript = heard(ROLE, chunk({"content": "a"}), said)

    assert transcript.text is None
    transcript.add(chunk({"content": "b"}))
    assert transcript.text is None


def test_empty_fields_and_usage_say_nothing() -> None:
    empty = {"content": "a", "tool_calls": [], "reasoning": None, "reasoning_content": "", "refusal": None}

    assert heard(ROLE, chunk(empty), usage(3), chunk({"content": "b"}, finish="")).text == "ab"


def test_a_stream_costs_its_text_and_some_collected_events() -> None:
    transcript = heard(ROLE)
    held = []
    for _ in range(5_000):
        transcript.add(chunk({"content": " word"}))
        held.append(sum(map(sys.getsizeof, transcript._collected)))

    assert max(held) < 64 * 1024
    assert transcript.text == " word" * 5_000
    assert transcript.pieces == 5_000


@pytest.mark.parametrize(("length", "is_kept"), [(LONGEST_TEXT, True), (LONGEST_TEXT + 1, False)])
def test_a_text_over_the_limit_is_given_up_and_forgotten(length: int, is_kept: bool) -> None:
    transcript = heard(ROLE)
    for at in range(0, length, 1_000):
        transcript.add(chunk({"content": "x" * min(1_000, length - at)}))

    assert (transcript.text is not None) is is_kept
    transcript.add(chunk({"content": "x" * 100_000}))
    assert transcript._texts is None
    assert not transcript._collected


@pytest.mark.parametrize("size", [1, 3, 400])
def test_it_does_not_matter_how_many_events_come_at_a_time(size: int) -> None:
    events = [ROLE, *(chunk({"content": f" {number}"}) for number in range(1_000))]
    grouped = [b"".join(events[at : at + size]) for at in range(0, len(events), size)]

    assert heard(*grouped).text == "".join(f" {number}" for number in range(1_000))
