"""The kit's own reader of events: the judge has to be right."""

import pytest

from tests.kit.sse import Event, EventReader

STREAM = ': hi\n\ndata: {"a": "ü🌍"}\n\ndata:x\ndata: y\n\nevent: e\nid: 1\ndata: [DONE]\n\n'
EVENTS = [Event(": hi", is_comment=True), Event('{"a": "ü🌍"}'), Event("x\ny"), Event("[DONE]")]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_events_are_the_same_wherever_the_bytes_are_cut(size: int, line_end: str) -> None:
    data = STREAM.replace("\n", line_end).encode() + b"\n"
    reader = EventReader()

    found = [each for at in range(0, len(data), size) for each in reader.feed(data[at : at + size])]

    assert found == EVENTS
    assert not reader.is_inside_an_event


def test_an_event_without_its_blank_line_is_unfinished():
    reader = EventReader()

    assert list(reader.feed(b"data: x\n")) == []
    assert reader.is_inside_an_event


def test_bytes_that_are_no_utf8_are_an_error():
    with pytest.raises(UnicodeDecodeError):
        list(EventReader().feed(b"data: \xe4\n\n"))
