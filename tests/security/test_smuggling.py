"""
What a client may send on one connection, and what the model server sees of it: exactly the requests that were answered.

The cases are data, see http_cases.py; the model server is one that takes nothing on trust, see origin.py.
"""

import json
from functools import partial

import pytest

from proxy.edge.connection import Connection
from tests.security.cases.case import Outcome, Then, body, post, taken
from tests.security.client import play
from tests.security.http_cases import CASES, GROUPS
from tests.security.origin import RecordingOrigin, translated

#: So long is waited for what never comes; a case in which all comes has the time that clients have.
_SHORT = {"read_timeout_s": 0.5, "header_timeout_s": 0.5}
#: And so long aiohttp reads on behind an answer that came before its request's body (10 s by itself).
_LINGER_S = 0.3
_FRAMING = {b"content-length", b"transfer-encoding"}
_AFTER = taken("after", post("after"), "")


def test_there_are_cases_of_every_group_and_no_two_of_one_name():
    assert len({case.name for case in CASES}) == len(CASES) >= 400
    assert all(len(cases) >= 20 for cases in GROUPS.values())
    assert all(case.why and case.outcomes for case in CASES)


@pytest.mark.parametrize("delivery", ["at once", "in pieces"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_model_server_sees_exactly_the_requests_that_are_answered(
    start_proxy, monkeypatch, shortcuts, delivery, case
):
    """
    Each is whole and the proxy's own, and nothing follows it; the client gets the answer to it and no other, and so
    does the next client.
    """
    monkeypatch.setattr("proxy.edge.listener.Connection", partial(Connection, lingering_time=_LINGER_S))
    waits = case.then is Then.WAIT or any(408 in outcome.answers for outcome in case.outcomes)
    async with RecordingOrigin() as origin:
        proxy = await start_proxy(origin.url, shortcuts=shortcuts, **(_SHORT if waits else {}))
        heard = await play(proxy.port, case, piecewise=delivery == "in pieces")

        assert Outcome(heard.statuses, heard.end, tuple(origin.texts)) in case.outcomes
        assert heard.texts == origin.texts
        assert all(_FRAMING & answer.headers.keys() for answer in heard.answers)
        assert (await play(proxy.port, _AFTER)).texts == ["after"]
        assert [seen.body for seen in origin.seen] == [translated(body(text)) for text in origin.texts]
        assert origin.judged() == []
        assert [line for line in map(json.loads, proxy.log.text.splitlines()) if line["level"] == "error"] == []
        assert (proxy.edge.admission.in_flight, proxy.edge.admission.buffered_bytes) == (0, 0)
