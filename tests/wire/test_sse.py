"""Events out of bytes, however these are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamProtocolError
from proxy.wire.sse import DONE, DONE_EVENT, EventFramer, data_event

LIMIT = 1000


def events(*pieces, limit=LIMIT, at_end=True):
    framer = EventFramer(limit)
    found = []
    for piece in pieces:
        framer.receive_data(piece)
        found += iter(framer.next_event, None)
    if at_end:
        framer.receive_eof()
        found += iter(framer.next_event, None)
    return found


def payloads(*pieces, **kwargs):
    return [event.payload for event in events(*pieces, **kwargs)]


CASES = [
    (b"data: a\n\n", [b"a"]),
    (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    (b"data: a\n\r\ndata: b\r\n\rdata: c\r\n\n", [b"a", b"b", b"c"]),
    (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
    (b"data: a\ndata: b\n\n", [b"a b"]),
    (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
    (b"data: a\nevent: x\n\n", [b"a"]),
    (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    (b"\n\n\ndata: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
    (b"data: \xf0\x9f\x91\x8b\n\n", [b"\xf0\x9f\x91\x8b"]),
    (b": ping\ndata: a\n\n", [b"a"]),
    (b"data: a: b\n\n", [b"a: b"]),
]


@pytest.mark.parametrize(("stream", "expected"), CASES)
def test_every_form_of_an_event_is_read_whole_and_byte_by_byte(stream, expected):
    one_by_one = [stream[at : at + 1] for at in range(len(stream))]

    assert [payload for payload in payloads(stream) if payload is not None] == expected
    assert [payload for payload in payloads(*one_by_one) if payload is not None] == expected


@pytest.mark.parametrize("stream", [b"data\n\n", b"data:\n\n", b"event: x\n\n", b"nonsense\n\n", b"\n\n"])
def test_an_event_without_data_has_no_payload(stream):
    assert payloads(stream) == [None]


@pytest.mark.parametrize("stream", [b": ping\n\n", b"\n: ping\n\n", b": ping\r\n\r\n", b"\xef\xbb\xbf: ping\n\n"])
def test_a_comment_is_kept(stream):
    assert [event.comment for event in events(stream)] == [b": ping\n\n"]


def test_what_is_no_comment_has_none():
    assert [event.comment for event in events(b"event: x\n\n")] == [b""]


def test_an_event_that_does_not_end_is_none():
    assert payloads(b"data: a\n\ndata: b\n") == [b"a"]


def test_an_event_is_given_out_as_soon_as_its_blank_line_is_complete():
    assert payloads(b"data: a\n\n", at_end=False) == [b"a"]
    assert payloads(b"data: a\r\n\r\n", at_end=False) == [b"a"]


def test_a_last_cr_waits_for_its_lf():
    assert payloads(b"data: a\r\n\r", at_end=False) == []
    assert payloads(b"data: a\r\n\r", b"\ndata: b\r\n\r\n", at_end=False) == [b"a", b"b"]


def test_the_raw_events_are_the_stream():
    stream = b"".join(case for case, _ in CASES)

    assert b"".join(event.raw for event in events(stream)) == stream


@given(st.lists(st.sampled_from((b"\r", b"\n", b"data: ", b":", b"x", b"\xff", b" ")), max_size=30), st.data())
def test_any_cut_gives_the_same_events(parts, data):
    stream = b"".join(parts)
    at = data.draw(st.integers(0, len(stream)))

    assert events(stream[:at], stream[at:]) == events(stream)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_an_event_over_the_limit_is_an_error_however_it_is_cut(end, piece):
    fits = b"data: " + b"x" * (LIMIT - 6) + end
    too_long = b"data: " + b"x" * (LIMIT - 5) + end
    cut = [too_long[at : at + piece] for at in range(0, len(too_long), piece)]

    assert payloads(*[fits[at : at + piece] for at in range(0, len(fits), piece)]) == [b"x" * (LIMIT - 6)]
    with pytest.raises(UpstreamProtocolError, match=f"more than {LIMIT} bytes"):
        payloads(*cut)


def test_an_endless_event_is_refused_before_it_is_stored():
    framer = EventFramer(LIMIT)
    for _ in range(LIMIT // 100):
        framer.receive_data(b"x" * 100)
        assert framer.next_event() is None
    framer.receive_data(b"x" * 100)

    with pytest.raises(UpstreamProtocolError):
        framer.next_event()


def test_each_byte_of_a_long_event_is_searched_once(monkeypatch):
    searched = []

    class Counting(bytearray):
        def find(self, what, start=0):
            searched.append(len(self) - start)
            return bytearray.find(self, what, start)

    framer = EventFramer(1_000_000)
    framer._buffer = Counting()
    for _ in range(1000):
        framer.receive_data(b"x" * 100)
        framer.next_event()

    assert sum(searched) < 1000 * 110


def test_what_is_written_is_read_again():
    assert payloads(data_event(b"{}") + DONE_EVENT) == [b"{}", DONE]
