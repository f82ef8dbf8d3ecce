"""The comparison with and without the proxy, against the demo upstream in place of a vLLM."""

import pytest

from benchmarks import programs, vllm
from benchmarks.programs import BenchmarkError
from benchmarks.vllm import DIRECT, PROXY, Batch, Exchange


async def test_each_shape_has_a_row_for_each_way_and_one_for_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = (("short", "whole"), ("short", "stream"))
    monkeypatch.setattr(vllm, "SHAPES", shapes)
    server = programs.start_proxy("", programs.processors()[0])
    try:
        rows = await vllm.measure({DIRECT: server.url, PROXY: server.url}, 1, 2, {})
    finally:
        server.stop()

    assert [(row["form"], row["way"]) for row in rows] == [
        (form, way) for _, form in shapes for way in (DIRECT, PROXY, "added")
    ]
    assert all(row["tokens_per_second"] > 0 and row["failed"] == 0 for row in rows if row["way"] != "added")
    assert "first_token_ms" in rows[3]
    assert "first_token_ms" not in rows[0]


async def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(BenchmarkError):
        await vllm.measure({DIRECT: f"http://127.0.0.1:{programs.free_port()}"}, 1, 1, {})


def test_a_failed_answer_is_counted_and_has_no_part_in_the_figures() -> None:
    good, bad = Exchange(10, None, [], 5, ""), Exchange(0, None, [], 0, "status 500")

    direct, through, _ = vllm.rows_of(
        ("short", "whole"), {DIRECT: [Batch([good, good], 1)], PROXY: [Batch([good, bad], 1)]}
    )

    assert (direct["failed"], through["failed"]) == (0, 1)
    assert through["total_ms"] == 10
