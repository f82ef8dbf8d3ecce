"""Every refusal, with its exact text and in vLLM's error object; and what is taken although it looks odd."""

from typing import Any

import pytest

from proxy.demo.refusal import Refusal
from proxy.demo.validate import check_request
from tests.demo.refusals import ACCEPTED, REFUSALS, SAID
from tests.demo.requests import USER, chat

CONTEXT = 4096


def refusal_of(body: Any) -> Refusal | None:
    try:
        check_request(body, CONTEXT)
    except Refusal as refusal:
        return refusal
    return None


@pytest.mark.parametrize(("body", "text"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_is_refused_with_the_real_text(body: Any, text: str) -> None:
    refusal = refusal_of(body)
    assert refusal is not None
    assert refusal.message == text
    assert refusal.status == 400


@pytest.mark.parametrize("body", [case[1] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
def test_is_accepted(body: Any) -> None:
    refusal = refusal_of(body)
    assert refusal is None, refusal.message


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        (chat(model="nope"), 404, "NotFoundError", "model"),
        (chat(USER, SAID), 400, "BadRequestError", None),
        (chat(temperature=5), 400, "BadRequestError", "temperature"),
        (chat(tools=[{"type": "web_search"}]), 400, "Bad Request", "body.tools.0.type"),
    ],
)
def test_error_object_is_vllms(body: Any, status: int, kind: str, param: str | None) -> None:
    refusal = refusal_of(body)
    assert refusal is not None
    error = refusal.body()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (refusal.status, error["code"], error["type"], error["param"]) == (status, status, kind, param)


def test_unknown_model_is_named() -> None:
    refusal = refusal_of(chat(model="nope"))
    assert refusal is not None
    assert refusal.message == "The model `nope` does not exist. Valid aliases: devstral."
