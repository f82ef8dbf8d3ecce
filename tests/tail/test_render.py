"""What a line looks like: to a file, to a terminal of any width, and with what a client may have put into it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.record import Record
from proxy.tail.amounts import count, duration
from proxy.tail.paint import cells, cut, safe
from proxy.tail.render import COLUMNS, Renderer, places
from tests.tail.test_select import ANYTHING, request

LINE = {
    "model": "devstral",
    "replica": "http://gpu-1:8000",
    "duration_ms": 1240.0,
    "ttft_ms": 180.2,
    "tokens_in": 1200,
    "tokens_out": 340,
    "stream": True,
    "finish_reason": "stop",
    "rules": ("nine_char_tool_ids",),
}
#: What moves a terminal's cursor or turns the direction of writing.
HOSTILE = "m\x1b[2J\x9b1m\r\n\u202e"


def plain(line, width=None):
    return Renderer(lambda: width, has_colours=False).line(line)


def without_colours(text):
    return re.sub(r"\x1b\[\d*m", "", text)


def test_a_request_is_one_line_of_columns():
    assert plain(request(**LINE)).split() == [
        *("01-31", "12:00:00.500", "200", "1.24s", "180ms", "devstral", "1.2k>340", "http://gpu-1:8000"),
        *("stop", "stream", "rules=nine_char_tool_ids", "id=r-1"),
    ]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"error": "upstream_timeout"}, "upstream_timeout id=r-1"),
        ({"model": "m", "path": "/v1/completions"}, "/v1/completions id=r-1"),
        ({"retried": ("connect",), "failover": "continued"}, "retried=connect failover=continued id=r-1"),
        ({"principal": "alice", "limit": "tier", "cache": "hit"}, "limit=tier cache=hit by=alice id=r-1"),
        ({"queue_ms": 1500.0}, "queue=1.50s id=r-1"),
        ({"error": 40001}, "40001 id=r-1"),
    ],
)
def test_what_is_special_about_a_request_stands_behind_the_columns(fields, words):
    assert plain(request(**{"model": "devstral"} | fields)).endswith(" " + words)


def test_a_request_without_a_model_says_what_it_was():
    assert "GET /healthz" in plain(request(method="GET", path="/healthz"))


def test_an_event_is_its_level_its_name_and_its_fields():
    line = {
        "timestamp": "2026-01-31T12:00:00Z",
        "level": "info",
        "event": "config_reloaded",
        "changed": ["a", "b"],
        "needs_restart": [],
        "signal": None,
        "delay_s": 0,
        "nested": {"x": 1},
    }

    assert plain(line) == '01-31 12:00:00     info    config_reloaded changed=a,b delay_s=0 nested={"x":1}'


def test_a_traceback_stands_below_its_line():
    line = {"level": "error", "event": "unexpected_error", "exception": "Traceback\n  File x\nValueError"}

    assert plain(line).splitlines()[1:] == ["    Traceback", "      File x", "    ValueError"]


@pytest.mark.parametrize("width", [1, 10, 20, 39, 40, 60, 80, 100, 132, 200, 400])
@pytest.mark.parametrize("fields", [LINE, LINE | {"model": "模" * 40, "error": "e" * 300}, {}])
def test_on_a_terminal_a_request_takes_one_line_of_it(width, fields):
    shown = plain(request(**fields), width)

    assert "\n" not in shown
    assert cells(shown) <= max(width, 8)


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (40, "STATUS"),
        (50, "TIME STATUS"),
        (80, "TIME STATUS TOOK FIRST MODEL"),
        (100, "TIME STATUS TOOK FIRST MODEL TOKENS REPLICA"),
        (120, "DATE TIME STATUS TOOK FIRST MODEL TOKENS REPLICA"),
    ],
)
def test_a_narrow_terminal_gets_the_columns_that_tell_most(width, titles):
    assert Renderer(lambda: width, has_colours=False).header().split() == [*titles.split(), "DETAILS"]


def test_a_wide_terminal_cuts_no_name():
    assert "http://gpu-1:8000 " in plain(request(**LINE), 200)


def test_columns_follow_a_terminal_that_is_resized():
    widths = iter([200, 200, 60])
    renderer = Renderer(lambda: next(widths), has_colours=False)
    wide, narrow = renderer.line(request(**LINE)), renderer.line(request(**LINE))

    assert cells(narrow) <= 60 < cells(wide)


def test_what_is_no_terminal_gets_everything_whole():
    assert "m" * 200 in plain(request(model="m" * 200))


@pytest.mark.parametrize("width", [None, 80, 200])
def test_colours_change_nothing_but_colours(width):
    for line in (request(**LINE), request(status=502, error="e"), {"event": "x", "level": "error", "exception": "T"}):
        coloured = Renderer(lambda: width, has_colours=True).line(line)
        assert "\x1b[" in coloured
        assert without_colours(coloured) == plain(line, width)


@pytest.mark.parametrize(
    ("fields", "colour"),
    [
        ({"status": 200}, 32),
        ({"status": 429}, 33),
        ({"status": 200, "error": "client_disconnect"}, 33),
        ({"status": 502}, 31),
    ],
)
def test_the_colour_of_a_status_says_whose_fault_it_is(fields, colour):
    line = request(**fields) | {"level": "warning" if colour == 31 else "info"}

    assert f"\x1b[{colour}m{fields['status']}" in Renderer(lambda: 80, has_colours=True).line(line)


# --- what must not reach a terminal


@pytest.mark.parametrize("width", [None, 80, 200])
def test_a_clients_words_do_not_move_the_cursor(width):
    lines = [request(model=HOSTILE, path=HOSTILE, replica=HOSTILE), {"event": HOSTILE, "x": HOSTILE, HOSTILE: 1}]

    for line in lines:
        assert plain(line, width).isprintable()


def test_text_that_is_no_line_of_the_log_is_shown_as_it_is():
    text = b"Traceback \x1b[31m\tcaf\xe9"

    assert Renderer(lambda: None, has_colours=False).text(text) == text
    assert Renderer(lambda: 80, has_colours=True).text(text).decode().isprintable()


@given(st.text())
def test_safe_text_is_printable_and_printable_text_is_safe(text):
    assert safe(text).isprintable()
    assert safe(safe(text)) == safe(text)


@given(st.text(st.sampled_from("ab模e\u0301")), st.integers(0, 10))
def test_cut_text_takes_no_more_cells_than_there_are(text, width):
    assert cells(cut(text, width)) <= width


@given(
    st.dictionaries(
        st.sampled_from([*Record.__struct_fields__, "timestamp", "level", "exception"]),
        ANYTHING,
    ),
    st.sampled_from(["request", "startup"]),
    st.sampled_from([None, 10, 80]),
)
def test_a_field_of_any_type_is_shown(fields, event, width):
    assert isinstance(Renderer(lambda: width, has_colours=True).line(fields | {"event": event}), str)


# --- amounts


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        *((None, "-"), (0, "0.0ms"), (9.94, "9.9ms"), (9.96, "10ms"), (999.4, "999ms"), (999.6, "1.00s")),
        *((9994, "9.99s"), (9996, "10.0s"), (59_940, "59.9s"), (59_960, "1m00s"), (125_400, "2m05s")),
        *((3_599_600, "1h00m"), (11_220_000, "3h07m")),
    ],
)
def test_durations(ms, text):
    assert duration(ms) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((None, "-"), (0, "0"), (999, "999"), (1000, "1.0k"), (9949, "9.9k"), (9950, "10k"), (999_499, "999k")),
        *((999_500, "1.0M"), (131_072, "131k"), (2_000_000_000, "2.0G")),
    ],
)
def test_counts(number, text):
    assert count(number) == text


@given(st.floats(0, 1e9), st.integers(0, 10**12))
def test_amounts_fit_their_columns(ms, number):
    assert len(duration(ms)) <= 7
    assert len(count(number)) <= 7


def test_every_column_is_somewhere():
    assert [place.column for place in places(1000)] == list(COLUMNS)
