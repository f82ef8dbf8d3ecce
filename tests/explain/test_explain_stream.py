"""A stream that is explained comes out as one that is served, and each event's share of it is shown."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.explain.command import explain
from proxy.explain.document import printable
from proxy.explain.stream import ENDINGS, explain_stream, pieces_of
from proxy.translate.stream import State
from tests.translate.answers import DONE, ROLE, chunk, expect, play, usage
from tests.translate.test_stream import CASES, FAILURES, INPUTS

many = settings(max_examples=200, derandomize=True, deadline=None)


def recorded(name):
    return (CASES / f"{name}.sse").read_bytes()


def assert_same_as_served(data):
    report, served = explain_stream(data, expect()), play(data)

    assert b"".join(event.out for event in report.events) == served.out
    assert b"".join(event.came for event in report.events) == data
    assert report.rules == served.rules
    assert report.state is served.translator.state
    assert report.state in ENDINGS
    assert {rule for event in report.events for rule in event.rules} == set(report.rules)


@pytest.mark.parametrize("name", INPUTS)
def test_a_recorded_stream_comes_out_as_it_is_served(name):
    assert_same_as_served(recorded(name))


@many
@given(name=st.sampled_from(INPUTS), share=st.floats(0, 1), noise=st.binary(max_size=8))
def test_a_stream_that_is_cut_or_spoilt_anywhere_comes_out_as_it_is_served(name, share, noise):
    data = recorded(name)
    at = int(len(data) * share)

    assert_same_as_served(data[:at])
    assert_same_as_served(data[:at] + noise + data[at:])


@many
@given(data=st.binary(max_size=200))
def test_no_byte_is_lost_when_a_stream_is_cut_into_events(data):
    assert b"".join(pieces_of(data)) == data


@pytest.mark.parametrize("name", INPUTS)
def test_a_stream_fails_here_where_it_fails_for_a_client(name):
    report = explain_stream(recorded(name), expect())

    assert (report.state is State.FAILED) is (name in FAILURES)
    assert (report.error is not None) is (name in FAILURES)


def test_a_rule_is_named_at_the_event_at_which_it_comes_up_first():
    vendor = {"token_ids": None}
    thought = chunk({"reasoning": "hm"})
    report = explain_stream(ROLE + chunk({"content": "a"}, **vendor) + thought + chunk({}, "stop") + DONE, expect())

    named = {event.number: event.rules for event in report.events if event.rules}
    assert named == {2: ("strip_vendor_fields",), 3: ("reasoning_fields",)}
    assert [event.outcome for event in report.events] == ["passed", "changed", "changed", "passed", "passed"]


def test_usage_and_finish_reason_are_those_of_the_stream():
    report = explain_stream(ROLE + chunk({"content": "a"}) + chunk({}, "length") + usage(3) + DONE, expect())

    assert report.finish_reasons == ("length",)
    assert report.usage is not None
    assert report.usage.completion_tokens == 3


def test_what_comes_after_the_last_event_stands_alone():
    last = explain_stream(ROLE, expect()).events[-1]

    assert last.came == b""
    assert json.loads(last.out.split(b"\n\n")[0].removeprefix(b"data: "))["error"]["code"] == "upstream_disconnected"


def test_what_a_terminal_would_obey_is_written_as_an_escape():
    assert printable("a\x1b[31m\x9b1m\u202eé日") == "a\\u001b[31m\\u009b1m\\u202eé日"


def test_a_stream_that_would_be_asked_again_whole_says_so(capsys, tmp_path):
    (tmp_path / "a.sse").write_bytes(ROLE + chunk({}, "stop") + usage(40) + DONE)

    code = explain([str(tmp_path / "a.sse"), "--tool", "f", "--option", "retry_swallowed=non_stream"], {})

    assert code == 1
    assert "the upstream is asked again, for a whole answer" in capsys.readouterr().out
