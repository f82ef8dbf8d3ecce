"""The kit tells gateways apart: this proxy passes every row, and a gateway with a fault fails the row about it."""

import json
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.kit import peers, table
from tests.kit.catalogue import ROWS, chosen
from tests.kit.client import Target
from tests.kit.gateways import (
    Asking,
    Buffering,
    Copier,
    Deaf,
    Ejecting,
    Inventing,
    Retrying,
    Rewording,
    Truncating,
)
from tests.kit.model import Model
from tests.kit.rig import Rig
from tests.kit.row import Row
from tests.kit.run import Result, run
from tests.kit.verdict import Fails, Verdict

#: So that nothing takes as long as it does by default.
QUICK = MappingProxyType({"KEEP_ALIVE": "1", "DRAIN_DELAY": "0"})

FAULTS = [
    (Buffering, "F09a", "kept back: no answer within"),
    (Truncating, "F03a", "the stream just ends"),
    (Truncating, "F03c", "the stream just ends"),
    (Inventing, "F03c", 'finish_reason "stop" is invented'),
    (Retrying, "F04b", "called 5 times"),
    (Retrying, "F04d", "called 5 times"),
    (Ejecting, "F05a", "taken out"),
    (Deaf, "F01b", "the model was not left"),
    (Deaf, "F01c", "the model was not left"),
    (Rewording, "F25a", "the client got 500"),
    (Rewording, "F26", "the client got 500"),
    (Asking, "F17b", "comes unasked"),
    (Copier, "F03a", "the HTTP body breaks off"),
    (Copier, "F19a", "it arrives as text"),
    (Copier, "F21a", "Unexpected role 'user' after role 'tool'"),
    (Copier, "F22a", "Tool call id was"),
    (Copier, "F33", "are forwarded"),
    (Copier, "F37", "authorization, cookie"),
    (Copier, "F38b", "the answer has none"),
]
COPIED_WELL = ["F01a", "F01b", "F01c", "F04b", "F04d", "F05a", "F09a", "F10a", "F11", "F17b", "F20a", "F25a", "F26"]


async def result_of(gateway: type[Copier], *rows: Row) -> list[Result]:
    """Run rows, each once, against a gateway of gateways.py."""
    async with Model() as model, Model() as other, gateway(model.url) as running:
        rig = Rig(Target("127.0.0.1", running.port), model, other, silence_s=1)
        return await run(rig, [row._replace(repeats=False) for row in rows], lambda _: None)


@pytest.mark.parametrize(
    ("gateway", "row", "words"), FAULTS, ids=[f"{fault[0].__name__} {fault[1]}" for fault in FAULTS]
)
async def test_a_gateway_with_a_fault_fails_the_row_about_it(gateway, row, words):
    [result] = await result_of(gateway, *chosen([row]))

    assert (result.verdict, words in result.seen) == (Verdict.FAILS, True), result.seen


async def test_a_gateway_that_only_copies_passes_the_rows_that_a_copy_can_pass():
    results = await result_of(Copier, *chosen(COPIED_WELL))

    assert [(result.row.id, result.seen) for result in results if result.verdict is not Verdict.OK] == []
    assert len(results) == len(COPIED_WELL)


async def test_what_comes_after_the_loss_of_a_gateway_is_not_run_and_not_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.kit.run._RECOVERY_S", 0.5)
    lost, after = await result_of(Ejecting, *chosen(["F05a", "F05b"]))

    assert "does not serve after it" in lost.seen
    assert (after.verdict, after.seen) == (Verdict.NOT_RUN, "it has not served since F05a")


async def test_a_row_that_fails_once_runs_once_more_and_says_so():
    fates = iter([Fails("the machine was busy"), ""])

    async def check(_: Rig) -> str:
        """A row."""
        fate = next(fates)
        if isinstance(fate, Fails):
            raise fate
        return fate

    async with Model() as model, Model() as other, Copier(model.url) as running:
        rig = Rig(Target("127.0.0.1", running.port), model, other)
        [result] = await run(rig, [Row("X", check)], lambda _: None)

    assert (result.verdict, result.seen) == (Verdict.OK, "at the second try, at the first: the machine was busy")


@pytest.mark.parametrize(("servers", "ids"), [(1, peers.ONE_SERVER), (2, peers.TWO_SERVERS)])
async def test_this_proxy_passes_every_row(servers: int, ids: tuple[str, ...]) -> None:
    gateway = peers.GATEWAYS[0]._replace(environment=QUICK)

    results, starts = await peers.check(gateway, ids, servers=servers, silence_s=3)

    assert [table.line(result) for result in results if result.verdict is not Verdict.OK] == []
    assert (len(results), starts) == (len(ids), 1)


def test_every_row_has_an_id_of_its_own_and_a_claim():
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert [row.id for row in ROWS if not row.claim.endswith(".")] == []


def test_rows_are_chosen_by_the_beginning_of_their_ids():
    assert [row.id for row in chosen(["f03", "F12"])] == ["F12", "F03a", "F03b", "F03c", "F03d"]
    assert chosen([""]) == ROWS


def test_a_row_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="no row is called F99"):
        chosen(["F01", "F99"])


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:9000", Target("127.0.0.1", 9000)),
        ("http://gateway:4000/v1/", Target("gateway", 4000)),
        ("https://gateway/tenant/v1", Target("gateway", 443, "/tenant", tls=True)),
    ],
)
def test_a_target_is_the_url_that_a_client_is_given(url: str, target: Target) -> None:
    assert Target.at(url) == target


def test_a_target_that_is_no_url_is_refused():
    with pytest.raises(ValueError, match="no http"):
        Target.at("127.0.0.1:9000")


def test_the_results_render_as_a_table_with_a_column_for_each_gateway(tmp_path: Path) -> None:
    row = {"id": "F01a", "probe": "A1", "kind": "Any gateway", "claim": "A claim.", "verdict": "ok", "seen": "in 1 ms"}
    kept = {
        "gateways": {
            "one": {"version": "1.0", "date": "2026-01-01", "restarts": 0, "rows": [row]},
            "two": {
                "version": "2.0",
                "date": "2026-01-01",
                "restarts": 1,
                "rows": [{**row, "verdict": "fails", "seen": "a|b"}],
            },
        }
    }

    rendered = table.section(kept)

    assert "| Any gateway | one 1.0 | two 2.0 |" in rendered
    assert "| F01a. A claim. | ok | **fails**: a\\|b |" in rendered
    assert "| rows that fail | 0 | 1 |" in rendered


def test_the_readme_has_the_table_of_the_results():
    kept = json.loads(peers.RESULTS.read_text(encoding="utf-8"))
    readme = (peers.ROOT / "README.md").read_text(encoding="utf-8")

    assert f"<!-- faults -->\n{table.section(kept)}<!-- end of faults -->" in readme
