"""Filters: what each lets through, and what they do with lines that are not as expected."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.record import Record
from proxy.tail.select import Filters, fields_of, is_error, seconds, since, statuses

#: What a field may hold that was read as JSON.
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e300, 1e300) | st.text()
ANYTHING = SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS)
NOW = datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)


def request(**fields):
    record = Record(request_id="r-1", client_ip="127.0.0.1", method="POST", path="/v1/chat/completions", status=200)
    line = msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(record, **fields)))
    return {"event": "request", "level": "info", "timestamp": "2026-01-31T12:00:00.500000Z"} | line


@pytest.mark.parametrize(
    ("filters", "yes", "no"),
    [
        ({"statuses": (range(500, 600),)}, {"status": 502}, {"status": 499}),
        ({"statuses": (range(500, 600), range(429, 430))}, {"status": 429}, {"status": 430}),
        ({"slow_ms": 2000}, {"duration_ms": 2000.0}, {"duration_ms": 1999.9}),
        ({"models": ("devstral",)}, {"model": "devstral"}, {"model": "devstral-2"}),
        ({"models": ("devstral*", "m")}, {"model": "devstral-2"}, {"model": None}),
        ({"rules": ("recover_*",)}, {"rules": ("a", "recover_leaked_calls")}, {"rules": ("a",)}),
        ({"rules": ("a",)}, {"rules": ("a", "b")}, {"rules": ()}),
        ({"principals": ("alice",)}, {"principal": "alice"}, {"principal": "Alice"}),
        ({"replicas": ("*gpu-1*",)}, {"replica": "http://gpu-1:8000"}, {"replica": "http://gpu-2:8000"}),
        ({"request_ids": ("r-2",)}, {"request_id": "r-2"}, {"request_id": "r-1"}),
        ({"errors": True}, {"status": 404}, {"status": 304}),
        ({"errors": True}, {"status": 200, "error": "upstream_timeout"}, {"status": 200}),
        ({"slow_ms": 1, "models": ("m",)}, {"model": "m", "duration_ms": 1.0}, {"model": "m"}),
    ],
)
def test_a_filter_lets_through(filters, yes, no):
    assert Filters(**filters).match(request(**yes))
    assert not Filters(**filters).match(request(**no))


def test_other_events_have_their_name_and_level():
    failed = {"event": "config_reload_failed", "level": "error"}

    assert is_error(failed)
    assert Filters(events=("config_*",)).match(failed)
    assert not Filters(events=("request",)).match(failed)
    assert not Filters(statuses=(range(200, 300),)).match(failed)


@pytest.mark.parametrize(
    ("since", "is_shown"),
    [("2026-01-31T12:00:00", True), ("2026-01-31T12:00:01", False), ("2026-01-30T23:00:00", True)],
)
def test_since_is_to_the_second(since, is_shown):
    assert Filters(since=since).match(request()) is is_shown
    assert Filters(since=since).match(request() | {"timestamp": "2026-01-31T12:00:00Z"}) is is_shown


def test_a_line_without_a_time_is_not_older():
    assert Filters(since="2026-01-31T12:00:00").match({"event": "x"})


@given(
    st.dictionaries(
        st.sampled_from(["timestamp", "level", "event", "status", "duration_ms", "model", "rules", "error"]),
        ANYTHING,
    )
)
def test_a_field_of_any_type_breaks_nothing(line):
    every = Filters(
        statuses=(range(100, 600),),
        slow_ms=1,
        models=("*",),
        rules=("*",),
        events=("*",),
        errors=True,
        since="2026-01-31T12:00:00",
    )
    for name in Filters.__struct_fields__:
        Filters(**{name: getattr(every, name)}).match(line)


@pytest.mark.parametrize("text", [b"", b"plain", b"{", b"[1]", b"{}", b'{"a": 1}', b'{"event": "\\ud800"}', b"\xff{}"])
def test_what_a_proxy_has_not_written_has_no_fields(text):
    assert fields_of(text) is None


# --- the text of flags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5xx", [range(500, 600)]),
        ("4XX, 502", [range(400, 500), range(502, 503)]),
        ("200-299", [range(200, 300)]),
        ("429", [range(429, 430)]),
    ],
)
def test_statuses(text, expected):
    assert list(statuses(text)) == expected


@pytest.mark.parametrize("text", ["", "6xx", "xx", "20", "2000", "200-", "200,,201", "5xx-6xx", "٤٢٩"])
def test_other_statuses_are_refused(text):
    with pytest.raises(ValueError, match="use 5xx, 429 or 200-299"):
        statuses(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("2", 2), ("2s", 2), ("500ms", 0.5), ("10m", 600), ("1.5h", 5400), ("2d", 172800)]
)
def test_times(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "2 s", "-2s", "2w", "1e3", "nan", "٢s"])
def test_other_times_are_refused(text):
    with pytest.raises(ValueError, match="use 500ms, 2s"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", "2026-01-31T12:00:00"),
        ("1d", "2026-01-30T12:00:30"),
        ("2026-01-31T11:00:00Z", "2026-01-31T11:00:00"),
        ("2026-01-31T11:00:00+02:00", "2026-01-31T09:00:00"),
        ("2026-01-31 11:00", "2026-01-31T11:00:00"),
        ("2026-01-31", "2026-01-31T00:00:00"),
        ("9" * 400 + "d", ""),
    ],
)
def test_since_when(text, expected):
    assert since(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "12:00"])
def test_other_points_in_time_are_refused(text):
    with pytest.raises(ValueError, match="use 10m, 2h, or a time"):
        since(text, NOW)
