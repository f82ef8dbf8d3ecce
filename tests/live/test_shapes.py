"""Every request shape through the proxy: what a client may send is answered, the rest is refused well."""

import pytest

from tests.live.bench import FULL_MODES, Bench
from tests.live.traffic import Answer
from tests.shapes import Shape, expected, load_shapes

pytestmark = pytest.mark.live
BENCH_MODES = tuple(FULL_MODES)

SHAPES = load_shapes()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_shape_gets_the_status_it_is_owed(bench: Bench, shape_answers: dict[str, Answer], shape: Shape) -> None:
    owed = expected(shape, bench.mode)
    answer = shape_answers[shape.name]

    assert answer.status == owed.status, f"{owed.why or 'a client may send this'}\n{answer.body[:600]!r}"


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.is_chat], ids=lambda shape: shape.name)
def test_an_answer_is_whole_or_an_openai_error(bench: Bench, shape_answers: dict[str, Answer], shape: Shape) -> None:
    answer = shape_answers[shape.name]

    if answer.status != 200:
        assert_openai_error(answer)
    elif answer.is_stream:
        assert_whole_stream(answer)
    else:
        assert_whole_completion(answer)


def assert_openai_error(answer: Answer) -> None:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    assert isinstance(body["error"]["type"], str)


def assert_whole_stream(answer: Answer) -> None:
    events = answer.events()
    assert events[-1] == "[DONE]"
    assert not [event for event in events if '"error"' in event]
    assert [event for event in events if '"finish_reason":"' in event.replace(" ", "")]


def assert_whole_completion(answer: Answer) -> None:
    for choice in answer.json()["choices"]:
        message = choice["message"]
        assert message["role"] == "assistant"
        assert message["content"] is None or isinstance(message["content"], str)
        assert choice["finish_reason"] in {"stop", "length", "tool_calls", "function_call"}
        assert (
            bool(message.get("tool_calls") or message.get("function_call"))
            == (choice["finish_reason"] in {"tool_calls", "function_call"})
            or choice["finish_reason"] == "length"
        )
