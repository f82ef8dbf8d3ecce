"""The README's messages seen in the wild: the strict checker says them, and the proxy's rules see to them."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.demo import DemoUpstream
from proxy.demo.refusal import Refusal
from proxy.demo.validate import check_request
from proxy.translate.answer_rules import ANSWER_RULES
from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, Choice
from tests.translate.test_stream import DEFAULT, PAIRS, played

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases"
SHAPES = {
    shape["name"]: shape["request"]
    for shape in map(json.loads, (CASES / "shapes.jsonl").read_text(encoding="utf-8").splitlines())
}
REQUEST_RULES = {
    rule.__name__
    for entry in (*MESSAGE_RULES, *CHAT_RULES)
    for rule in (entry.rules.values() if isinstance(entry, Choice) else [entry])
}
ALTERNATE = "conversation roles must alternate"


class Row(NamedTuple):
    message: str
    rules: frozenset[str]
    case: str


def rows() -> list[Row]:
    """The rows of both tables; of several messages in one cell the first."""
    section = re.search(r"^### Messages seen in the wild\n(.*?)^What no rule", README, re.M | re.S)
    assert section is not None
    cells = [line.strip("|").split(" | ") for line in section[1].splitlines() if line.startswith("| ")]
    named = [row for row in cells if row[0].strip() != "---" and not row[0].startswith(" What ")]
    return [Row(spoken(row[0]), frozenset(re.findall(r"`(\w+)`", row[2])), row[4].strip(" `")) for row in named]


def spoken(cell: str) -> str:
    """The first text in backquotes, which are single or double."""
    quoted = re.search(r"`` (.+?) ``|`([^`]+)`", cell)
    return (quoted[1] or quoted[2]) if quoted else ""


README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = rows()
REQUESTS = [row for row in ROWS if row.rules & REQUEST_RULES]
ANSWERS = [row for row in ROWS if not row.rules & REQUEST_RULES]


def request_of(case: str) -> dict:
    path = CASES / "request" / f"{case}.json"
    return {"model": "devstral"} | (json.loads(path.read_bytes()) if path.exists() else SHAPES[case])


def plain(message: str) -> str:
    return message.replace("`", "")


def refusal_of(body: dict) -> str:
    with pytest.raises(Refusal) as caught:
        check_request(body, max_model_len=131_072)
    return plain(caught.value.message)


def alternates(messages: list[dict]) -> bool:
    """Whether user and assistant take turns, as chat templates count them."""
    counted = [m["role"] for m in messages if m["role"] in ("user", "assistant") and not m.get("tool_calls")]
    return all(first != second for first, second in pairwise(counted))


def test_there_are_rows_of_both_kinds():
    assert len(REQUESTS) > 20
    assert len(ANSWERS) > 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_every_rule_that_is_named_exists(row):
    assert row.rules
    assert row.rules <= REQUEST_RULES or row.rules <= set(ANSWER_RULES)


@pytest.mark.parametrize("row", REQUESTS, ids=lambda row: f"{row.case} {row.message[:20]}")
async def test_a_message_is_said_without_the_proxy_and_an_answer_given_with_it(start_proxy, row):
    body = request_of(row.case)
    template = row.message.startswith(ALTERNATE)
    if template:
        assert not alternates(body["messages"])
    else:
        assert plain(row.message) in refusal_of(body)

    demo = DemoUpstream(chunk_delay_s=0)
    await demo.start()
    try:
        proxy = await start_proxy(demo.url, profile="vllm-hf-template" if template else DEFAULT)
        async with proxy.chat(**body) as response:
            text = await response.text()
    finally:
        await demo.close()

    assert response.status == 200, text
    assert row.rules <= set(response.headers["x-proxy-rewrites"].replace(" ", "").split(","))


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row.case)
def test_what_an_answer_has_wrong_is_seen_to_by_the_rule(row):
    profile = DEFAULT if (row.case, DEFAULT) in PAIRS else dict(PAIRS)[row.case]

    assert row.rules <= set(played(row.case, profile).translator.rules_applied)
