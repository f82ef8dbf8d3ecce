"""A run: peers may fail in it, other programs may not."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import programs, rounds
from benchmarks.bodies import write_bodies
from benchmarks.peers import Peer
from benchmarks.programs import BenchmarkError, Program
from benchmarks.rounds import CASES, FULL, QUICK, Contestant, Measured, Plan, measure

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None or len(os.sched_getaffinity(0)) < 2,
    reason="needs Linux, a C compiler and two processors",
)

#: Answers what is whole, and refuses streams.
WITHOUT_STREAMS = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(500 if b'"stream":true' in body else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64

Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def refuses(_: Program, __: int) -> Program:
    raise BenchmarkError("no licence found")


def drops_streams(_: Program, processor: int) -> Program:
    port = programs.free_port()
    return programs.start("dropping", [sys.executable, "-c", WITHOUT_STREAMS, str(port)], port, processor)


def relays(mock: Program, processor: int) -> Program:
    return programs.start_relay("relaying", mock.url, processor)


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    programs.compile_programs()
    write_bodies(programs.BODIES)


Run = Callable[[], tuple[Measured, list[str]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Three rounds of one stream case with three peers and nothing else."""
    peers = tuple(Peer(start.__name__, start, str) for start in (refuses, drops_streams, relays))
    monkeypatch.setattr(rounds, "PEERS", peers)
    monkeypatch.setattr(rounds, "OWN", ())
    plan = Plan(3, ("text-burst",), tuple(peer.name for peer in peers), is_quick=True, with_translation=False)
    said: list[str] = []
    return lambda: (measure(plan, said.append), said)  # type: ignore[return-value]


def test_peers_that_fail_are_reported_and_the_run_goes_on(run: Run) -> None:
    found, said = run()

    assert found.absent == {"refuses": "no licence found"}
    assert "refuses is left out: no licence found" in said
    assert list(found.samples["text-burst"]) == ["relays"]
    assert list(found.samples["text-burst"]["relays"]) == [0, 1, 2]


def test_a_peers_losses_are_counted_until_it_has_failed_twice(run: Run) -> None:
    found, _ = run()

    quick = next(case.quick for case in CASES if case.name == "text-burst")
    assert quick
    lost = quick.connections + quick.requests  # the warm-up and one round
    assert found.losses == {"text-burst": {"drops_streams": Counter(bad_status=lost, events=lost * 200)}}


def test_a_program_that_is_no_peer_may_not_lose_anything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "OWN", (Contestant("own", drops_streams),))

    with pytest.raises(BenchmarkError, match=r"dropping, text-burst: of 16 requests .*'bad_status': 16"):
        run()


@pytest.mark.parametrize("plan", [FULL, QUICK, rounds.BESIDE_PEERS], ids=["full", "quick", "peers"])
def test_every_case_of_a_plan_has_a_dose(plan: Plan) -> None:
    assert plan.chosen
    assert [case.name for case in plan.chosen if plan.dose(case) is None] == []


def test_slow_peers_have_a_dose_in_every_case_that_they_are_in() -> None:
    chosen = rounds.BESIDE_PEERS.chosen

    assert [case.name for case in chosen if rounds.BESIDE_PEERS.dose(case, is_slow=True) is None] == []


def test_a_setting_that_the_proxy_does_not_have_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="no setting wrokers"):
        programs.start_proxy("http://127.0.0.1:1", 0, wrokers=2)


def test_bodies_of_all_cases_are_written() -> None:
    assert [case.body for case in CASES if not (Path(programs.BODIES) / f"{case.body}.json").exists()] == []
