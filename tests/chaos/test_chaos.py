"""A short run with scripted replicas, and the judge of the outcomes, on which the long ones rest."""

import json
from dataclasses import replace

import pytest

from tests.chaos.model import NOT_A_BEGINNING, Asked, pieces_of
from tests.chaos.outcome import Kind, exactly
from tests.chaos.plans import GREETING, repeated, scripted
from tests.chaos.run import run
from tests.chaos.troubles import Pace

ASKED = Asked(7, 3)


def said(*texts: str, finish: str | None = "stop", error: bool = False, done: bool = True) -> bytes:
    deltas = [{"role": "assistant"}, *({"content": text} for text in texts)]
    chunks = [{"id": "a", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if finish:
        chunks.append({"id": "a", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    events = [json.dumps(chunk) for chunk in chunks]
    events += ['{"error": {"message": "", "type": "server_error", "param": null, "code": "x"}}'] if error else []
    events += ["[DONE]"] if done else []
    return "".join(f"data: {event}\n\n" for event in events).encode()


def completion(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize(
    ("body", "is_ended", "kind"),
    [
        (said("7.0", " 7.1", " 7.2"), True, Kind.RIGHT),
        (said("7.0", finish=None, error=True), True, Kind.ERROR),
        (said("7.0", finish=None, done=False), False, Kind.CUT),
        (said("7.0", " 7.1", " 7.2", done=False), False, Kind.CUT),
        (b"", False, Kind.CUT),
        # what looks whole and is not
        (said("7.0", " 7.2"), True, Kind.WRONG),
        (said("7.0", " 7.1"), True, Kind.WRONG),
        (said("7.0", " 7.1", " 7.1", " 7.2"), True, Kind.WRONG),
        (said("7.0", " 7.1", done=False), False, Kind.WRONG),
        (said("7.0", finish=None), True, Kind.WRONG),
        (said("7.0", finish=None, done=False), True, Kind.WRONG),
        (said("8.0", finish=None, error=True), True, Kind.WRONG),
        (said("7.0", " 7.1", " 7.2", error=True), True, Kind.WRONG),
        (said("7.0", " 7.1", " 7.2") + said(), True, Kind.WRONG),
        (said("7.0", finish=None, done=False) + said(" 7.1", " 7.2"), True, Kind.WRONG),  # two roles
        (b"", True, Kind.WRONG),
    ],
)
def test_a_stream_is_judged_as_its_client_sees_it(body: bytes, is_ended: bool, kind: Kind) -> None:
    assert exactly(ASKED.text).stream(body, is_ended=is_ended).kind is kind


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, completion("7.0 7.1 7.2"), Kind.RIGHT),
        (200, completion("7.0 7.1"), Kind.WRONG),
        (200, b"{", Kind.WRONG),
        (502, b'{"error": {"message": "", "type": "server_error", "param": null, "code": null}}', Kind.ERROR),
        (502, b"<html>", Kind.WRONG),
        (204, b'{"error": {"message": "", "type": "server_error", "param": null, "code": null}}', Kind.WRONG),
    ],
)
def test_a_whole_answer_is_judged_as_its_client_sees_it(status: int, body: bytes, kind: Kind) -> None:
    assert exactly(ASKED.text).whole(status, body).kind is kind


@pytest.mark.parametrize("given", ["", "7", "7.0", "7.0 ", "7.0 7", "7.0 7.1 7.2"])
def test_the_model_goes_on_from_what_is_given(given: str) -> None:
    assert given + "".join(pieces_of(ASKED, given)) == ASKED.text


def test_the_model_does_not_go_on_from_what_it_never_said() -> None:
    assert pieces_of(ASKED, "7.0 7.2") == [NOT_A_BEGINNING]


def test_a_repeated_greeting_must_have_its_length() -> None:
    judge = repeated(20)

    assert judge.problem(GREETING * 2) == ""
    assert judge.problem(GREETING * 2 + " Hello")
    assert judge.problem(GREETING)
    assert judge.problem(GREETING * 4)


async def test_nothing_is_lost_doubled_or_cut_unseen_while_replicas_and_workers_die() -> None:
    plan, replicas = scripted(8, seed=3)
    pace = Pace(gap_s=(0.3, 1.0), away_s=(0.2, 1.0), stopped_s=(0.5, 2.0), worker_stopped_s=(0.2, 0.5))

    report = await run(replace(plan, pace=pace, width=16, afterwards=24), replicas)

    assert report.problems == []
    assert report.facts["right"] > 0
    assert {"kill", "kill_worker"} <= report.facts["troubles"].keys()
