"""What spans a finished request makes, whatever happened to it."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxy
from proxy.edge.record import Record, Stopwatch
from proxy.edge.trace import Trace
from proxy.observe.spans import WORDS, pieces_of
from proxy.upstream.route import Leg

LAPS = ("admit", "queue", "read", "translate", "limits", "cache")


def made(record=None, laps=(), legs=(), ended=100.0):
    """Return the spans of a request whose laps end at these times and which had these legs."""
    trace, watch = Trace(), Stopwatch()
    trace.trace_id, trace.span_id, trace.legs = "a" * 32, "b" * 16, list(legs)
    watch.started, since = 0.0, 0.0
    for name, at in laps:
        watch.laps.append((name, since, at))
        since = at
    return list(pieces_of(record or recorded(), trace, watch, ended, "http"))


def recorded(**fields):
    defaults = {"request_id": "id", "client_ip": None, "method": "POST", "path": "/v1/chat/completions", "status": 200}
    return Record(**{**defaults, **fields})


def leg_of(number, **fields):
    return Leg("replica", "http://127.0.0.1:8000", f"00-{'a' * 32}-{number:016x}-01", **fields)


UPSTREAM_WORDS = "the prompt, as a model server repeats it"


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        ("upstream_timeout", 504, "upstream_timeout"),
        ("client_disconnect", 499, "client_disconnect"),
        (UPSTREAM_WORDS, 422, "422"),
        (UPSTREAM_WORDS, 200, "_OTHER"),
        (40001, 400, "400"),
    ],
)
def test_an_error_is_told_in_this_programs_words_or_by_its_status(error, status, told):
    [root] = made(recorded(error=error, status=status))
    *_, attempt, _, failed = made(legs=[leg_of(1, error=str(error), status=status, connected_at=1.0, ended_at=2.0)])

    assert root.attributes["error.type"] == attempt.attributes["error.type"] == failed.attributes["error.type"] == told
    assert UPSTREAM_WORDS not in repr([root, attempt, failed])


def test_every_code_that_the_source_gives_an_error_is_a_word():
    sources = "".join(path.read_text("utf-8") for path in Path(proxy.__file__).parent.rglob("*.py"))
    codes = {code for line in sources.splitlines() if "code=" in line for code in re.findall(r'code="(\w+)"', line)}

    assert len(codes) >= 5
    assert codes - WORDS == set()


def test_only_a_stream_that_began_has_a_first_chunk():
    name = "gen_ai.response.time_to_first_chunk"
    [failed] = made(recorded(status=503, error="upstream_timeout", stream=True, ttft_ms=5.0, sent_ms=1.0))
    [left] = made(recorded(status=499, error="client_disconnect", stream=True, ttft_ms=5.0, sent_ms=1.0))

    assert (name in failed.attributes, left.attributes[name]) == (False, 0.005)


def test_names_are_cut_and_half_a_character_is_replaced():
    [root, attempt, *_] = made(recorded(model="m\ud800" + "x" * 999, principal="\ud800"), legs=[leg_of(1)])

    for piece in (root, attempt):
        assert piece.attributes["gen_ai.request.model"] == "m?" + "x" * 254
    assert root.attributes["devstral.proxy.principal"] == "?"
    assert attempt.name.encode() == b"chat m?" + b"x" * 249


def test_a_method_of_a_clients_own_is_not_repeated():
    [root] = made(recorded(method="CANARY"))

    assert (root.name, root.attributes["http.request.method"]) == ("HTTP /v1/chat/completions", "_OTHER")


def test_a_socket_is_an_address_without_a_port():
    [_, attempt, *_] = made(legs=[Leg("replica", "unix:/run/vllm.sock")])

    assert attempt.attributes["server.address"] == "/run/vllm.sock"
    assert not {"server.port", "url.full"} & attempt.attributes.keys()


def test_a_lap_that_came_to_no_end_has_the_error():
    names = [
        [(piece.name, "error.type" in piece.attributes) for piece in made(recorded(error="overloaded"), laps)[1:]]
        for laps in ((), [("admit", 1.0)], [("admit", 1.0), ("queue", 2.0)], [(name, 1.0) for name in LAPS[:4]])
    ]

    # in the queue it is shown though it did not have to wait
    assert names == [[], [("queue", True)], [("read", True)], [("read", False), ("translate", False), ("limits", True)]]


TIMES = st.lists(st.floats(0, 99), min_size=10, max_size=10).map(sorted)


@given(
    TIMES,
    st.integers(0, 6),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, "upstream_error", "client_disconnect", UPSTREAM_WORDS]),
)
def test_whatever_happened_spans_lie_inside_their_parents_and_phases_follow_each_other(
    times, lap_count, phases, stream, error
):
    laps = list(zip(LAPS[:lap_count], times, strict=False))
    legs = []
    for number, reached in enumerate(phases, 1):
        began, connected, first, ended = times[6:]
        legs.append(leg_of(number, began_at=began, error=error))
        legs[-1].connected_at = connected if reached > 0 else None
        legs[-1].first_byte_at = first if reached > 1 else None
        legs[-1].ended_at = ended if reached > 2 else None
    pieces = made(recorded(stream=stream, error=error, model="m"), laps, legs)

    by_id = {piece.span_id: piece for piece in pieces if piece.span_id is not None}
    assert pieces[0].kind == "SERVER"
    assert len(by_id) == 1 + len(legs) == 1 + sum(piece.kind == "CLIENT" for piece in pieces)
    for piece in pieces[1:]:
        parent = by_id[piece.parent_id]
        assert parent.began <= piece.began <= piece.ended <= parent.ended
    for span_id in by_id:
        children = [piece for piece in pieces if piece.parent_id == span_id and piece.kind == "INTERNAL"]
        assert all(before.ended <= after.began for before, after in pairwise(children))
    assert UPSTREAM_WORDS not in repr(pieces)
