"""What the load generator finds wrong, and a small run of each module that uses it."""

import asyncio
import subprocess
import time
from collections.abc import Sequence

import pytest

from benchmarks import lag, latency, loads, memory, paced, programs, scrape, throughput, workers
from benchmarks.bodies import write_bodies
from benchmarks.loads import DIRECT, Work
from benchmarks.programs import BenchmarkError, Program
from tests.benchmarks.marks import needs_programs

pytestmark = needs_programs
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
#: Four streams that begin together and last 0.14 s.
FEW = Work("text-start", 4, 4, pieces=4, gap_us=1000)


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    programs.compile_programs()
    write_bodies(programs.BODIES)


async def asked(stamps: Sequence[int], *, end: bytes = b"data: [DONE]\n\n") -> str:
    """Send one request to a server that answers with events so stamped; return what load printed."""
    events = [b'data: {"content":" @%019d"}\n\n' % stamp for stamp in stamps]
    answers = iter([WHOLE, HEAD + b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in [*events, end] if e) + b"0\r\n\r\n"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        body = str(programs.BODIES / "short.json")
        options = ["-p", str(server.sockets[0].getsockname()[1]), "-b", body, "-w", body, "-c1", "-n1", "-e3"]
        process = await asyncio.create_subprocess_exec(
            programs.BUILD / "load", *options, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(b"go\n"), 10)
    return out.decode()


@pytest.mark.parametrize(
    ("stamps", "found"),
    [
        ([1, 2, 3], "done"),
        ([1, 2], "lost_pieces"),
        ([1, 2, 3, 3], "lost_pieces"),
        ([1, 2, 2], "out_of_order"),  # one came twice and one is lost: the count is right
        ([1, 3, 2], "out_of_order"),
    ],
)
async def test_lost_doubled_and_reordered_events_are_found(stamps: list[int], found: str) -> None:
    assert f'"{found}":1,' in await asked(stamps)


async def test_a_stream_without_its_end_is_found() -> None:
    assert '"no_end":1,' in await asked([1, 2, 3], end=b"")


@pytest.mark.parametrize("streams", [20, 50, 200, 500])
def test_streams_are_not_in_step(streams: int) -> None:
    """In each of ten parts of the interval begins about a tenth of them, and all of them begin in time."""
    gap_us = loads.apart_us(streams, 20_000, 1.0)
    parts = [int(gap_us * i % 20_000 / 2_000) for i in range(streams)]

    assert gap_us * streams <= 1e6
    assert max(parts.count(part) for part in range(10)) <= streams / 10 + 4


@pytest.mark.parametrize("sign", ["Non-2xx or 3xx responses: 7", "  Socket errors: connect 0, read 2, write 0"])
def test_a_run_of_wrk_with_errors_is_none(sign: str) -> None:
    printed = "Requests/sec:   1234.50\n"

    assert throughput.read_wrk("relay", printed) == 1234.5
    with pytest.raises(BenchmarkError, match="relay"):
        throughput.read_wrk("relay", f"{sign}\n{printed}")


def test_what_is_added_is_compared_round_by_round() -> None:
    """In the second round the machine was slow."""
    assert latency.added([12.0, 52.0, 13.0], [10.0, 50.0, 10.0]) == 2.0


def test_the_ceiling_of_two_workers_leaves_mock_and_load_their_part() -> None:
    one = {"requests_per_second": 1000.0, "cpu_us_per_request": 1000.0, "mock_and_load_us_per_request": 250.0}
    two = {"requests_per_second": 1500.0, "cpu_us_per_request": 1000.0}

    assert workers.compared(one, two, 2) == {"ratio": 1.5, "ceiling": 1.6, "by_cost": 2.0}
    assert workers.compared(one, two, 8)["ceiling"] == 2.0


def test_a_paced_run_counts_events_and_failures() -> None:
    with loads.stand([DIRECT]) as servers:
        result = loads.run(servers[DIRECT], FEW, programs.processors()[1])
        wrong = loads.run(servers[DIRECT], FEW._replace(pieces=5), programs.processors()[1])

    row = paced.sample(DIRECT, result, FEW)
    assert result.report["pieces"] == 16
    assert row["failed"] == 0
    assert row["cpu_us_per_event"] > 0
    assert loads.failed(wrong.report) == 4


def test_a_latency_run_has_a_row_for_each_work_and_program() -> None:
    works = {"whole": latency.steady(200, 0.1), "first": FEW}

    rows = latency.measure([DIRECT, "relay"], works, 1)

    assert {(row["what"], row["program"], row["failed"]) for row in rows} == {
        (what, program, 0) for what in works for program in (DIRECT, "relay")
    }
    assert all(row["added_p50_us"] == 0 for row in rows if row["program"] == DIRECT)


def test_a_memory_run_sees_a_program_before_with_and_after_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "AFTERWARDS_S", 0)

    [row] = memory.measure(["relay"], FEW)

    assert row["failed"] == 0
    assert 0 < row["idle_rss_mb"] <= row["streams_rss_mb"]


def test_a_lag_run_has_a_row_alone_and_one_beside_large_requests() -> None:
    alone, beside = lag.measure([DIRECT], FEW, lag.large(20, 0.1))

    assert (alone["large_per_second"], beside["large_per_second"]) == (0, 20)
    assert alone["failed"] == beside["failed"] == 0
    assert alone["lag_p99_ms"] is None  # the mock has no such gauge


def test_a_run_of_workers_tells_what_each_process_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relays stand for proxies: what is tested is the measurement."""

    def start(workers: int, mock: Program) -> Program:
        return programs.start_relay(f"{workers} workers", mock.url, programs.processors()[0])

    one, two = workers.measure(Work("short", 8, 400), 1, start)

    assert [one["workers"], two["workers"], one["failed"], two["failed"]] == [1, 2, 0, 0]
    assert one["cpu_us_per_request"] > 0
    assert one["mock_and_load_us_per_request"] > 0
    assert len(one["busy"]) == 1


def test_a_scrape_run_has_a_row_for_each_number_of_workers_and_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "WORKERS", (2,))
    monkeypatch.setattr(scrape, "REPLICAS", (1, 30))
    few, many = scrape.measure(3)

    assert [(row["workers"], row["replicas"]) for row in (few, many)] == [(2, 1), (2, 30)]
    assert many["samples"] > few["samples"] > 100
    assert 0 < few["p50_ms"] <= few["p99_ms"] <= few["slowest_ms"]
    assert (scrape.verdict([{"cpu_ms": 19.9}]), scrape.verdict([{"cpu_ms": 19.9}, {"cpu_ms": 20.0}])) == (0, 1)


def test_a_load_can_be_watched_while_it_runs() -> None:
    with loads.stand([DIRECT]) as servers, loads.Load(servers[DIRECT], FEW, programs.processors()[1]) as load:
        assert load.is_running()
        load.go()
        while load.is_running():
            time.sleep(0.01)
        assert load.report()["done"] == 4
