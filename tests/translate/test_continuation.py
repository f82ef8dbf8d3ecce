"""
A stream that breaks off goes on at another upstream, and the client sees one answer.

`served` does what the relay does: upstream by upstream, until one ends its stream. `Model` is an upstream that knows
the whole answer: it goes on from an assistant message as vLLM 0.32 does.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import ProxyError, UpstreamProtocolError, UpstreamTimeout
from proxy.translate import stream
from proxy.translate.answer_again import SaidAgain
from proxy.translate.answer_rules import RuleLog
from proxy.translate.continuation import continued, continued_comment
from proxy.translate.expectation import Expectation
from proxy.translate.profile import build_profile
from proxy.translate.request import UpstreamRequest, translate_request
from proxy.translate.stream import State, StreamTranslator
from proxy.translate.transcript import Transcript
from tests.translate.answers import DONE, HEAD, ROLE, Played, assembled, call, calls, chunk, expect, usage
from tests.translate.test_stream_plain import KINDS, STRINGS

CASES = Path(__file__).parents[1] / "cases" / "stream"
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
RESET = UpstreamProtocolError("The model server's answer broke off.")
DIED = (
    b'data: {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}\n\n'
)


def asked(
    profile: str = "vllm-mistral-tokenizer", options: dict[str, Any] | None = None, **more: Any
) -> UpstreamRequest:
    body = {"model": "devstral", "messages": [{"role": "user", "content": "hi"}], "stream": True, **more}
    return translate_request(json.dumps(body).encode(), build_profile(profile, options))


class Model:
    """
    Says `answer`, a token at a time, or the rest of it after an assistant message to go on from.

    `repeats` is the hosted API's way. Each request gets chunks with an id and a time of its own; `first` is what the
    first one gets, where that is recorded.
    """

    def __init__(
        self, answer: str, *, call: dict[str, Any] | None = None, repeats: bool = False, first: bytes = b""
    ) -> None:
        self._answer = answer
        self._call = call
        self._repeats = repeats
        self._first = first
        self.requests: list[dict[str, Any]] = []

    def stream(self, request: UpstreamRequest) -> bytes:
        body = json.loads(request.body)
        self.requests.append(body)
        if self._first and len(self.requests) == 1:
            return self._first
        last = body["messages"][-1]
        begun = last["content"] if last["role"] == "assistant" else ""
        assert self._answer.startswith(begun), "what was said is a part of the answer"
        assert not begun.endswith(" "), "mistral-common would cut it off"
        if begun:
            marks = (body.get("continue_final_message"), body.get("add_generation_prompt"), last.get("prefix"))
            assert marks == ((None, None, True) if self._repeats else (True, False, None))
        text = self._answer if self._repeats else self._answer[len(begun) :]
        tokens = re.findall(r" ?\w+|\s+(?=\s\w)|[^\w]", text)
        assert "".join(tokens) == text
        said = [ROLE, *(chunk({"content": token}) for token in tokens)]
        said += [chunk(calls(self._call)), chunk({}, "tool_calls")] if self._call else [chunk({}, "stop")]
        return self._own(b"".join([*said, usage(len(tokens)), DONE]))

    def _own(self, said: bytes) -> bytes:
        return said.replace(_written(1), _written(len(self.requests)))


def _written(number: int) -> bytes:
    """The constant fields of the n-th stream, as they stand in its events."""
    head = {**HEAD, "id": f"chatcmpl-{number}", "created": number}
    return json.dumps(head, separators=(",", ":"))[:-1].encode()


class Served(NamedTuple):
    """What the client got, and how often someone else went on."""

    out: bytes
    translator: StreamTranslator
    turns: int

    @property
    def message(self) -> dict[str, Any]:
        """What a client makes of it, whichever stream was the first to give it constant fields."""
        number = next(number for number in range(1, 9) if self.out.count(_written(number)))
        return assembled(Played(self.out.replace(_written(number), _written(1)), self.translator))[0]


#: What happens to a stream: how many bytes of it come, or what part of all before its finish reason; and how it ends.
Fate = tuple[int | float, ProxyError | bytes | None]


def served(
    request: UpstreamRequest, answer: Callable[[UpstreamRequest], bytes], fates: Sequence[Fate], *, size: int = 0
) -> Served:
    """Relay the streams of `answer`; the n-th ends by the n-th of `fates`, and those after them by themselves."""
    translator = StreamTranslator(request.expectation, resumes=True)
    transcript = Transcript()
    out: list[bytes] = []
    current, turns = request, 0
    while True:
        assert turns < 10, "somebody goes on for ever"
        data = answer(current)
        cut, end = fates[turns] if turns < len(fates) else (len(data), None)
        if isinstance(cut, float):
            cut = int(cut * data.rindex(b"data: ", 0, data.index(b'"finish_reason":"')))
        for said in _received(translator, data[:cut], end, size):
            transcript.add(said)
            out.append(said)
        if translator.state is not State.BROKEN:
            return Served(b"".join(out), translator, turns)
        text = transcript.text
        again = None
        if text is not None:
            again = continued(request, text, translator.held_space, pieces=transcript.pieces)
        if again is None or text is None:
            out.append(translator.give_up())
            return Served(b"".join(out), translator, turns)
        translator.resume(again.expectation, text)
        out.append(continued_comment(text))
        current, turns = again, turns + 1


def _received(translator: StreamTranslator, data: bytes, end: ProxyError | bytes | None, size: int) -> Iterator[bytes]:
    pieces = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
    yield from map(translator.receive, [*pieces, *([end] if isinstance(end, bytes) else [])])
    if translator.error is None:
        yield translator.receive_break(end) if isinstance(end, ProxyError) else translator.receive_eof()


# --- one answer, whatever happens

TEXT = "It is sunny in Zürich,  25 °C – enjoy 👋\n\n    def f(x):\n        return [x] \n Bye."


@pytest.mark.parametrize("size", [0, 1, 150])
@pytest.mark.parametrize("tools", [(), (TOOL,)], ids=["no tools", "tools"])
def test_wherever_a_stream_of_text_breaks_the_client_sees_one_whole_answer(size: int, tools: tuple[Any, ...]) -> None:
    request = asked(tools=list(tools), stream_options={"include_usage": True})
    data = Model(TEXT).stream(request)
    finish = data.index(chunk({}, "stop")) + len(chunk({}, "stop"))
    for cut in range(0, finish, 7 if size == 0 else 101):
        model = Model(TEXT)
        result = served(request, model.stream, [(cut, None)], size=size)

        assert result.message == {"content": TEXT, "finish_reason": "stop"}, cut
        assert result.turns == 1
        assert result.out.count(b'"role"') == 1
        assert result.out.count(b'"usage"') == 1


@pytest.mark.parametrize("end", [None, RESET, UpstreamTimeout("between_bytes_timeout_s: 5 s"), DIED + DONE, DONE])
def test_however_it_breaks_the_answer_goes_on(end: ProxyError | bytes | None) -> None:
    data = Model(TEXT).stream(asked())
    cut = data.rindex(b"data: ", 0, data.index(b" Z\xc3\xbcrich"))
    result = served(asked(), Model(TEXT).stream, [(cut, end)])

    assert result.message["content"] == TEXT
    assert b"error" not in result.out
    assert result.translator.error is None
    assert b": continued on another replica after 14 characters\n\n" in result.out


@pytest.mark.parametrize("name", ["text", "unicode"])
def test_a_recorded_stream_goes_on_from_every_byte(name: str) -> None:
    data = (CASES / f"{name}.sse").read_bytes()
    whole = Played(data, StreamTranslator(asked().expectation))
    text = "".join(delta.get("content", "") for delta in whole.deltas)
    finish = data.index(b'"finish_reason":"stop"')
    for cut in range(finish):
        result = served(asked(), Model(text, first=data).stream, [(cut, None)])
        played = Played(result.out, result.translator)
        choices = [choice for part in played.chunks for choice in part["choices"]]

        assert "".join(delta.get("content", "") for delta in played.deltas) == text, cut
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
        assert sum("role" in choice["delta"] for choice in choices) == 1
        assert len({(part["id"], part["created"], part["model"], part["object"]) for part in played.chunks}) == 1
        assert result.out.count(DONE) == 1
        assert result.out.endswith(DONE)


def test_a_vllm_whose_engine_was_killed_is_followed_by_another() -> None:
    recorded = (CASES / "engine-killed.sse").read_bytes()
    model = Model("Half of it.", first=recorded)
    result = served(asked(), model.stream, [(len(recorded), None)])

    assert model.requests[1]["messages"][-1]["content"] == "Half"
    assert "".join(delta["content"] for delta in Played(result.out, result.translator).deltas) == "Half of it."
    assert b"EngineCore" not in result.out


_WORDS = st.sampled_from(
    (
        "Hello",
        " world",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "!",
        "[TOOL",
        "[TOOL_CALLS]",
        "[THINK",
        "<",
        "é",
        "👋",
        " get_weather",
        "{}",
        "]",
    )
)


@given(
    st.lists(_WORDS, min_size=1, max_size=12).map("".join).filter(str.strip),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
    st.sampled_from(("vllm-mistral-tokenizer", "vllm-hf-template", "mistral-api")),
    st.booleans(),
    st.booleans(),
    st.sampled_from((0, 1, 90)),
)
@example("Hello  world", [0.999, 0.5], "mistral-api", True, False, 0)
@example("Hello! \n How", [0.6], "vllm-mistral-tokenizer", True, True, 0)
@example(" get_weather{}", [0.0], "vllm-hf-template", True, False, 0)
@settings(max_examples=600, deadline=None)
def test_any_text_may_break_any_number_of_times(
    text: str, cuts: list[float], profile: str, with_tools: bool, finds_thoughts: bool, size: int
) -> None:
    request = asked(profile, {"extract_think": finds_thoughts}, tools=[TOOL] if with_tools else [])
    model = Model(text, repeats=profile == "mistral-api")
    result = served(request, model.stream, [(part, None) for part in cuts], size=size)

    if result.translator.state is State.CLOSED:
        assert _without_ids(result.message) == _without_ids(served(request, Model(text).stream, []).message)
        assert result.turns == len(cuts)
    else:
        assert b'"tool_calls":[' in result.out or b'"reasoning"' in result.out


def _without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """A call that is found in text has an id made of the answer's own."""
    return {**message, "tool_calls": [found["function"] for found in message.get("tool_calls", ())]}


def test_a_call_that_follows_the_text_comes_from_the_upstream_that_goes_on() -> None:
    request = asked(tools=[TOOL])
    weather = call(0, "get_weather", '{"city": "Paris"}', "abcDEF123")
    text = "I'll check.\n\n"
    data = Model(text, call=weather).stream(request)
    for cut in range(data.index(b'"tool_calls"')):
        model = Model(text, call=weather)
        message = served(request, model.stream, [(cut, None)]).message

        assert message["content"] == "I'll check."
        assert [made["function"] for made in message["tool_calls"]] == [weather["function"]]


def test_white_space_that_is_held_back_is_said_to_the_other_upstream_and_not_to_the_client() -> None:
    """A model's line ends are one token with the full stop before them: without them it goes another way."""
    model = Model("I'll check.\n\nNow", call=call(0, "get_weather", "{}", "abcDEF123"))
    request = asked(tools=[TOOL])
    cut = model.stream(request).index(b'"Now"')
    model.requests.clear()
    result = served(request, model.stream, [(cut, None)])

    assert model.requests[1]["messages"][-1]["content"] == "I'll check.\n\n"
    assert result.out.split(b": continued")[0].count(b"\\n\\n") == 0
    assert result.message["content"] == "I'll check.\n\nNow"


def test_a_call_of_which_nothing_was_shown_is_made_again() -> None:
    begun = chunk(calls(call(0, "get_weather", '{"a', "zyxWVU987")))
    weather = call(0, "get_weather", "{}", "abcDEF123")
    model = Model("I'll check.\n\n", call=weather, first=ROLE + chunk({"content": "I'll check.\n\n"}) + begun)
    message = served(asked(options={"tool_stream": "whole"}, tools=[TOOL]), model.stream, [(10_000, RESET)]).message

    assert message["content"] == "I'll check."
    assert [(made["id"], made["function"]) for made in message["tool_calls"]] == [("abcDEF123", weather["function"])]


@pytest.mark.parametrize("text", [" get_weather{}", " <think>a</think>", "[THINK]a[/THINK]"])
def test_what_has_a_meaning_at_the_start_of_an_answer_is_text_in_the_middle(text: str) -> None:
    request = asked("vllm-hf-template", tools=[TOOL])
    rest = ROLE + chunk({"content": text}) + chunk({}, "stop") + DONE
    streams = iter([ROLE + chunk({"content": "Say"}), rest])

    assert served(request, lambda _: next(streams), [(10_000, None)]).message["content"] == f"Say{text}"


def test_events_are_taken_undecoded_again_and_say_the_same_as_decoded() -> None:
    request = asked(tools=[TOOL])
    text = " ".join(["Hello", "[", "wörld", "a\tb", 'quoted "x"', "\\"] * 40)
    with mock.patch.object(stream, "decode_chunk", wraps=stream.decode_chunk) as decoded:
        fast = served(request, Model(text).stream, [(0.3, None)])
        seldom = decoded.call_count
    with mock.patch.object(stream, "learned", return_value=None):
        slow = served(request, Model(text).stream, [(0.3, None)])

    assert fast.out == slow.out
    assert fast.translator.rules_applied == slow.translator.rules_applied
    assert fast.translator.events == slow.translator.events > 200
    assert seldom < 20


class Rest(NamedTuple):
    """All that is known from outside of a stream that has gone on."""

    out: bytes
    state: State
    error: str | None
    facts: tuple[Any, ...]


def rest_of(data: bytes, expectation: Expectation, size: int) -> Rest:
    """Let `data` go on from the text "a"."""
    translator = StreamTranslator(expectation, resumes=True)
    translator.receive(ROLE + chunk({"content": "a"}))
    translator.receive_break(RESET)
    translator.resume(expectation, "a")
    pieces = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
    out = b"".join(map(translator.receive, pieces))
    error = translator.error and translator.error.message
    facts = (translator.usage, translator.finish_reasons, translator.rules_applied, translator.events)
    return Rest(out, translator.state, error, facts)


_RUNS = st.builds(
    lambda kind, texts: b"".join(text.join(kind) for text in texts),
    st.sampled_from(KINDS),
    st.lists(st.sampled_from(STRINGS[:4] * 12 + STRINGS), min_size=1, max_size=20),
)
_CALL = chunk(calls(call(0, "get_weather", '{"a": "', "abcDEF123")))


@given(
    st.lists(st.one_of(_RUNS, _RUNS, st.sampled_from((_CALL, chunk({}), chunk({}, "stop"), DONE))), max_size=8),
    st.sampled_from((expect(), expect(tool_names={}), expect({"strip_vendor_fields": False}))),
    st.sampled_from((0, 1, 300)),
)
@example([ROLE, _CALL, *[chunk(calls(call(0, None, "b")))] * 9], expect(), 0)
@example([ROLE, *[chunk({"content": "b"}, token_ids=None)] * 9], expect(), 0)
@example([chunk({"content": "b"}), chunk({"content": "~"}).replace(b"~", b"\\u0041\\/")], expect(), 0)
@example([chunk({"reasoning": "b"})] * 9 + [chunk({"reasoning_content": "b"})] * 9, expect(), 0)
@example([ROLE, chunk({"content": "["}, token_ids=None)], expect(), 0)
@settings(max_examples=400, deadline=None)
def test_what_is_taken_undecoded_of_any_rest_is_what_decoding_gives(
    events: list[bytes], expectation: Expectation, size: int
) -> None:
    data = b"".join(events).replace(b"chatcmpl-1", b"chatcmpl-2")
    fast = rest_of(data, expectation, size)
    with mock.patch.object(stream, "learned", return_value=None):
        slow = rest_of(data, expectation, size)

    assert fast == slow


def test_vendor_keys_are_stripped_from_what_goes_on_too() -> None:
    def stream_of(head: dict[str, Any], words: Sequence[str], end: bytes) -> bytes:
        events = [chunk({"content": word}, token_ids=None, prompt_logprobs=None) for word in words]
        said = b"".join([ROLE, *events, end])
        return said.replace(b"chatcmpl-1", head["id"].encode())

    end = chunk({}, "stop") + DONE
    streams = iter([stream_of(HEAD, "abcdef", b""), stream_of({"id": "chatcmpl-2"}, "ghijklmnopq" * 20, end)])
    result = served(asked(), lambda _: next(streams), [(10_000, None)])

    assert result.message["content"] == "abcdef" + "ghijklmnopq" * 20
    assert b"token_ids" not in result.out
    assert b"prompt_logprobs" not in result.out


def test_usage_and_events_are_those_of_the_stream_that_ended_and_of_all() -> None:
    request = asked(stream_options={"include_usage": True})
    streams = iter(
        [
            ROLE + chunk({"content": "a"}, usage={"prompt_tokens": 1, "completion_tokens": 1}),
            ROLE.replace(b"chatcmpl-1", b"chatcmpl-2") + chunk({"content": "b"}) + chunk({}, "stop") + usage(7) + DONE,
        ]
    )
    result = served(request, lambda _: next(streams), [(10_000, RESET)])

    assert result.translator.events == 6
    assert result.translator.usage is not None
    assert result.translator.usage.completion_tokens == 7
    assert result.out.count(b'"usage":{') == 1
    assert result.translator.finish_reasons == ("stop",)


def test_usage_that_came_before_the_break_is_not_the_answers() -> None:
    request = asked(stream_options={"include_usage": True})
    first = ROLE + chunk({"content": "a"}, usage={"prompt_tokens": 1, "completion_tokens": 1})
    streams = iter([first, ROLE + chunk({"content": "b"}) + chunk({}, "stop") + DONE])
    result = served(request, lambda _: next(streams), [(10_000, RESET)])

    assert b'"usage"' not in result.out
    assert result.translator.usage is None


def test_what_was_learned_of_one_upstream_is_not_taken_for_the_other() -> None:
    first = b"".join([ROLE, *(chunk({"content": word}) for word in ("a", " b", " c "))])
    rest = b"".join([ROLE, *(chunk({"content": word}) for word in (" d", " e")), chunk({}, "stop"), DONE])
    streams = iter([first, rest])

    assert served(asked(), lambda _: next(streams), [(10_000, RESET)]).message["content"] == "a b c d e"


@pytest.mark.parametrize(
    ("echo", "said", "pieces", "new"),
    [
        ("", "a ", [" b"], "b"),
        ("", "a ", ["b"], "b"),
        ("", "a   ", [" ", " b", " c"], "b c"),
        ("", "a   ", [" ", "  ", " b"], " b"),
        ("", "a \n", [" b"], " b"),
        ("", "  \n", [" ", " \n", "b"], "b"),
        ("a", "a ", ["a", " b"], "b"),
        ("a", "a ", ["a, b"], ", b"),
        ("a b", "a b ", ["a c"], "a c"),
        ("a b", "a b  ", ["a "], "a "),
    ],
)
def test_what_comes_again_is_removed_as_far_as_it_is_the_same(
    echo: str, said: str, pieces: list[str], new: str
) -> None:
    again = SaidAgain(echo, said, RuleLog())

    assert "".join([*map(again.receive, pieces), again.finish()]) == new
    assert again.finish() == ""


# --- what does not go on


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, [chunk({"content": "a"}), chunk(calls(call(0, "get_weather", "", "abcDEF123")))]),
        ({}, [chunk(calls(call(0, "get_weather", '{"a": ', "abcDEF123"))), chunk(calls(call(0, None, "1")))]),
        ({}, [chunk({"reasoning": "Let me see."})]),
        ({}, [chunk({"reasoning_content": "Let"}), chunk({"content": "a"})]),
        ({}, [chunk({"content": "[THINK]Let"}), chunk({"content": " me[/THINK]a"})]),
        ({"reasoning_field": "drop"}, [chunk({"reasoning": "Let"}), chunk({"content": "a"})]),
        ({"reasoning_field": "content"}, [chunk({"reasoning": "Let"})]),
        ({"reasoning_field": "content"}, [chunk({"content": "[THINK]Let me see.[/THINK]a"})]),
        ({"reasoning_field": "content"}, [chunk({"content": [{"type": "thinking", "thinking": "Let"}]})]),
        ({"reasoning_field": "untouched"}, [chunk({"reasoning": "Let"})]),
        ({}, [chunk({"content": "a"}), chunk({}, "stop")]),
        ({}, [chunk({"content": "a"}, "length")]),
        ({}, [chunk({"content": "a"}), chunk({"content": "b"}, index=1)]),
        ({}, [chunk({"content": "a"}), b"data: {broken\n\n"]),
        ({}, [chunk({"content": "a"}), b'data: {"error": {"message": "bad request", "code": 400}}\n\n']),
        ({}, [chunk({"content": "x" * 300_000})]),
    ],
)
def test_an_answer_of_more_than_text_ends_in_its_error(options: dict[str, Any], said: list[bytes]) -> None:
    request = asked(options=options, tools=[TOOL])
    data = b"".join([ROLE, *said])
    result = served(request, lambda _: data, [(len(data), None)])
    without = StreamTranslator(request.expectation)

    assert result.out == without.receive(data) + without.receive_eof()
    assert result.translator.state is without.state is State.FAILED
    assert result.turns == 0
    assert result.out.count(DONE) == 1
    assert b'"error"' in result.out


def test_a_stream_that_is_not_to_go_on_ends_as_ever() -> None:
    translator = StreamTranslator(asked().expectation)
    out = translator.receive(ROLE + chunk({"content": "a"})) + translator.receive_break(RESET)

    assert translator.state is State.FAILED
    assert out.endswith(b'"code":"upstream_disconnected"}}\n\n' + DONE)
    assert translator.receive_break(RESET) == b""


def test_what_is_not_read_does_not_go_on() -> None:
    request = asked("passthrough")
    translator = StreamTranslator(request.expectation, resumes=True)
    out = translator.receive(ROLE + chunk({"content": "a"})) + translator.receive_eof()

    assert translator.state is State.FAILED
    assert out.endswith(b'"code":"upstream_disconnected"}}\n\n' + DONE)
    assert continued(request, "a", pieces=1) is None


def test_an_error_that_is_whole_only_when_the_data_ends_breaks_the_stream_once() -> None:
    translator = StreamTranslator(asked().expectation, resumes=True)
    translator.receive(ROLE + chunk({"content": "a"}) + DIED[:-2].replace(b"\n", b"\r") + b"\r\r")

    assert translator.receive_eof() == b""
    assert translator.state is State.BROKEN
    assert translator.error is not None
    assert translator.error.status == 500


def test_once_a_choice_has_its_finish_reason_nothing_goes_on() -> None:
    translator = StreamTranslator(asked().expectation, resumes=True)
    translator.receive(ROLE + chunk({}, "length") + chunk({"content": "a"}, index=1))

    assert translator.state is State.ANSWERING
    translator.receive_eof()
    assert translator.state is State.FAILED


def test_nothing_is_taken_while_it_is_broken_and_only_then_may_it_go_on() -> None:
    translator = StreamTranslator(asked().expectation, resumes=True)
    translator.receive(b"".join([ROLE, *[chunk({"content": "a"})] * 3]))
    with pytest.raises(UpstreamProtocolError, match="RESUME while ANSWERING"):
        translator.resume(asked().expectation, "aaa")
    assert translator.receive_break(RESET) == b""

    assert translator.receive(chunk({"content": "b"})) == b""
    assert translator.error is RESET
    translator.resume(asked().expectation, "aaa")
    assert translator.error is None
    assert translator.state is State.WAITING


def test_what_was_cut_inside_an_event_is_forgotten() -> None:
    translator = StreamTranslator(asked().expectation, resumes=True)
    translator.receive(ROLE + chunk({"content": "a"}) + chunk({"content": "b"})[:-9])
    translator.receive_eof()
    translator.resume(asked().expectation, "a")

    assert translator.receive(chunk({"content": "c"})) == chunk({"content": "c"})


# --- the request


def body_of(request: UpstreamRequest | None) -> dict[str, Any]:
    assert request is not None
    body: dict[str, Any] = json.loads(request.body)
    return body


def test_vllm_is_asked_by_two_parameters_and_all_else_stays() -> None:
    request = asked(temperature=0.5, tools=[TOOL], stream_options={"include_usage": True}, seed=1)
    again = body_of(continued(request, "Grüße", pieces=2))
    before = body_of(request)

    assert again.pop("messages") == [*before.pop("messages"), {"role": "assistant", "content": "Grüße"}]
    assert again == {**before, "continue_final_message": True, "add_generation_prompt": False}


def test_the_hosted_api_is_asked_by_a_mark_and_its_echo_expected() -> None:
    again = continued(asked("mistral-api"), "Hello! ", pieces=2)

    assert body_of(again)["messages"][-1] == {"role": "assistant", "content": "Hello!", "prefix": True}
    assert "continue_final_message" not in body_of(again)
    assert again is not None
    assert again.expectation.echoed_prefix == "Hello!"


@pytest.mark.parametrize("text", ["", " ", "\n\n "])
def test_where_nothing_was_said_the_request_goes_out_again_as_it_was(text: str) -> None:
    request = asked(n=2, response_format={"type": "json_object"})

    assert continued(request, text, pieces=0) is request


@pytest.mark.parametrize("text", ["Hello \n", "Hello\t", "Hello\n\n"])
def test_line_ends_and_tabs_are_given_and_spaces_at_the_end_are_not(text: str) -> None:
    assert body_of(continued(asked(), text + "  ", pieces=1))["messages"][-1]["content"] == text


@pytest.mark.parametrize(
    ("limits", "pieces", "left"),
    [
        ({"max_tokens": 100}, 40, {"max_tokens": 60}),
        ({"max_tokens": 100, "max_completion_tokens": 50}, 40, {"max_tokens": 60, "max_completion_tokens": 10}),
        ({"max_tokens": 100}, 100, {"max_tokens": 1}),
        ({"max_tokens": 100, "min_tokens": 10}, 40, {"max_tokens": 60, "min_tokens": 0}),
        ({"max_completion_tokens": None}, 40, {"max_completion_tokens": None}),
    ],
)
def test_limits_are_lower_by_what_was_said_and_never_below_one(
    limits: dict[str, Any], pieces: int, left: dict[str, Any]
) -> None:
    again = continued(asked(**limits), "a", pieces=pieces)

    assert {name: body_of(again)[name] for name in left} == left
    assert again is not None
    expected = [value for name in ("max_completion_tokens", "max_tokens") if (value := left.get(name)) is not None]
    assert again.expectation.max_tokens == next(iter(expected), None)


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"guided_json": {"type": "object"}},
        {"guided_regex": "a+"},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        {"logprobs": True},
        {"logprobs": True, "top_logprobs": 2},
        {"prompt_logprobs": 1},
        {"return_token_ids": True},
        {"echo": True},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "prefix": True}]},
    ],
)
@pytest.mark.parametrize("profile", ["vllm-mistral-tokenizer", "vllm-hf-template"])
def test_an_answer_with_a_form_as_a_whole_is_not_continued(profile: str, more: dict[str, Any]) -> None:
    assert continued(asked(profile, **more), "Hello", pieces=1) is None


@pytest.mark.parametrize(
    "more",
    [
        {"n": 1},
        {"n": None},
        {"response_format": {"type": "text"}},
        {"response_format": None},
        {"logprobs": False},
        {"echo": False},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": "none"},
    ],
)
def test_parameters_that_say_nothing_are_no_hindrance(more: dict[str, Any]) -> None:
    assert continued(asked(**more), "Hello", pieces=1) is not None


def test_a_request_that_continues_already_is_not_continued_by_a_mark_either() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "prefix": True}]

    assert continued(asked("mistral-api", messages=messages), "Hello", pieces=1) is None


def test_an_assistant_message_that_ends_the_request_is_not_followed_by_another() -> None:
    request = asked(options={"trailing_assistant": "error"}, messages=[{"role": "assistant", "content": "a"}])

    assert continued(request, "Hello", pieces=1) is None


def test_the_expectation_is_the_same_but_for_what_is_said_again_and_the_limit() -> None:
    request = asked(tools=[TOOL], max_tokens=9)
    again = continued(request, "Hello", pieces=1)

    assert again is not None
    assert again.expectation == msgspec.structs.replace(request.expectation, max_tokens=8)


def test_the_comment_is_one_that_clients_skip() -> None:
    assert continued_comment("Grüße") == b": continued on another replica after 5 characters\n\n"
