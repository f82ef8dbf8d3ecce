"""One rule of the way back at a time, on short streams."""

import pytest

from proxy.errors import UpstreamError, UpstreamProtocolError
from proxy.translate.answer_choice import TRANSITIONS as SAID_TRANSITIONS
from proxy.translate.answer_choice import Said, Say, next_said
from proxy.translate.answer_finish import SwallowedToolCall
from proxy.translate.answer_rules import ANSWER_RULES
from proxy.translate.completion import translate_completion
from proxy.translate.stream import TRANSITIONS, Input, State, StreamTranslator, next_state
from proxy.wire.completion import Usage
from proxy.wire.ids import is_nine_char_id, nine_char_digest
from tests.translate.answers import (
    DONE,
    HEAD,
    ROLE,
    assembled,
    call,
    calls,
    chunk,
    event,
    expect,
    play,
    said,
    usage,
    whole,
)

WEATHER = call(0, "get_weather", '{"city": "SF"}', "abcDEF123")


def final(*deltas, options=None, finish="stop", **facts):
    """The message a client has at the end of the stream of `deltas`."""
    return assembled(said(*deltas, finish=finish, expectation=expect(options, **facts)))[0]


# --- R1: framing


def test_a_missing_role_chunk_is_made_and_later_roles_are_dropped():
    result = play(chunk({"role": "assistant", "content": "a"}), chunk({"role": "assistant", "content": "b"}), DONE)

    assert [part["choices"][0]["delta"] for part in result.chunks[:3]] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
    ]
    assert "one_role_first" in result.rules
    assert "role" in play(chunk({"content": "a"}), DONE).chunks[0]["choices"][0]["delta"]


def test_each_choice_has_its_own_role_text_and_finish_reason():
    result = play(
        ROLE,
        chunk({"role": "assistant", "content": ""}, index=1),
        chunk({"content": "a"}),
        chunk({"content": "b"}, index=1),
        chunk({}, "stop"),
        chunk({"tool_calls": [WEATHER]}, "tool_calls", index=1),
        DONE,
    )

    messages = assembled(result)
    assert messages[0] == {"content": "a", "finish_reason": "stop"}
    assert messages[1]["finish_reason"] == "tool_calls"
    assert messages[1]["content"] == "b"
    assert result.translator.finish_reasons == ("stop", "tool_calls")


def test_two_choices_in_one_event_are_both_translated():
    both = [
        {"index": 0, "delta": {"content": "a"}, "finish_reason": "eos"},
        {"index": 1, "delta": {"reasoning": "b"}, "finish_reason": None},
    ]
    result = play(event({**HEAD, "choices": both}), chunk({}, "stop", index=1), DONE)

    assert assembled(result)[0] == {"content": "a", "finish_reason": "stop"}
    assert assembled(result)[1]["reasoning_content"] == "b"


def test_the_envelope_is_constant_and_filled_where_it_is_missing():
    result = play(
        event({"choices": [{"delta": {"content": "a"}}]}),
        event(
            {**HEAD, "id": "other", "model": "m", "created": 5, "choices": [{"index": 0, "delta": {"content": "b"}}]}
        ),
        chunk({}, "stop"),
        DONE,
    )

    envelopes = {(part["id"], part["object"], part["created"], part["model"]) for part in result.chunks}
    assert len(envelopes) == 1
    identity, kind, created, model = envelopes.pop()
    assert identity.startswith("chatcmpl-")
    assert (kind, created, model) == ("chat.completion.chunk", 0, "devstral")


def test_a_plain_event_goes_on_as_the_bytes_that_came():
    text = b'data: {"id":"chatcmpl-1" , "created":1,"object":"chat.completion.chunk","model":"devstral",'
    text += b'"choices":[{"index":0,"delta":{"content":"\\u00e9 \xc3\xa9"}}],"extra":[1, 2]}\n\n'

    result = play(ROLE, text, text, text, chunk({}, "stop"), DONE)

    assert result.out == b"".join([ROLE, text, text, text, chunk({}, "stop"), DONE])
    assert result.rules == ()


def test_an_event_that_looks_plain_but_is_not_is_decoded():
    texts = ['say \\"hi\\"', "[TOOL_CALLS]get_time{}", "a", "b"]
    events = [chunk({"content": "x"})] * 3 + [chunk({"content": text.replace('\\"', '"')}) for text in texts]

    result = play(ROLE, *events, chunk({}, "stop"), DONE)

    assert assembled(result)[0]["content"] == 'xxxsay "hi"ab'
    assert assembled(result)[0]["tool_calls"][0]["function"]["name"] == "get_time"


@pytest.mark.parametrize("bad", [b'"a\xff"', b'"a"}', b'"a","content":"b"', b'"a\\"'])
def test_what_follows_a_plain_event_is_checked_like_any_other(bad):
    plain = chunk({"content": "x"})

    result = play(ROLE, plain, plain, plain.replace(b'"x"', bad), DONE)

    assert result.translator.error is not None or assembled(result)[0]["content"] in ("xxa", "xxb")


def test_fragments_of_two_calls_that_alternate_keep_their_places():
    result = said(
        calls(call(0, "get_weather", '{"a": ', "abcDEF123")),
        calls(call(0, None, '"x')),
        calls(call(1, "get_time", '{"b": ', "zyxWVU987")),
        calls(call(0, None, "y")),
        calls(call(0, None, '"')),
        calls(call(1, None, "1}")),
        calls(call(0, None, "}")),
    )

    fragments = [fragment for delta in result.deltas for fragment in delta["tool_calls"]]
    texts = ["".join(f["function"]["arguments"] for f in fragments if f["index"] == index) for index in (0, 1)]
    assert result.translator.finish_reasons == ("tool_calls",)
    assert texts == ['{"a": "xy"}', '{"b": 1}']


def test_empty_deltas_are_dropped_unless_they_carry_logprobs():
    empty = chunk({})
    with_logprobs = event({**HEAD, "choices": [{"index": 0, "delta": {}, "logprobs": {"content": []}}]})

    result = play(ROLE, chunk({"content": "a"}), empty, with_logprobs, chunk({"content": ""}), chunk({}, "stop"), DONE)

    assert len(result.chunks) == 4
    assert result.chunks[2]["choices"][0]["logprobs"] == {"content": []}
    assert "drop_empty_deltas" in result.rules


def test_an_event_that_becomes_several_gives_its_logprobs_once():
    choice = {"index": 0, "delta": {"reasoning": "a", "content": "b"}, "logprobs": {"content": []}, "x": 1}
    result = play(ROLE, event({**HEAD, "choices": [choice], "system_fingerprint": "f"}), chunk({}, "stop"), DONE)

    first, second = result.chunks[1:3]
    assert (first["choices"][0]["logprobs"], first["choices"][0]["x"]) == ({"content": []}, 1)
    assert second["choices"][0]["logprobs"] is None
    assert first["system_fingerprint"] == second["system_fingerprint"] == "f"


def test_what_follows_done_is_ignored():
    translator = StreamTranslator(expect())
    translator.receive(ROLE + chunk({"content": "a"}) + chunk({}, "stop") + DONE)

    assert translator.receive(chunk({"content": "b"}) + DONE + b"\xff") == b""
    assert translator.receive_eof() == b""
    assert translator.state is State.CLOSED


def test_events_are_counted():
    assert said({"content": "a"}).translator.events == 4


# --- the tables


OPEN = {State.WAITING, State.ANSWERING, State.FINISHED}


def test_every_state_can_fail_until_the_end_and_only_the_end_may_meet_eof():
    assert {state for state, came in TRANSITIONS if came is Input.EOF} == {*State} - OPEN
    assert {state for state, came in TRANSITIONS if came is Input.FAULT} == OPEN | {State.BROKEN}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("came", Input)
def test_a_gap_in_the_table_is_an_error_that_names_both(state, came):
    if (state, came) in TRANSITIONS:
        assert next_state(state, came) is TRANSITIONS[state, came]
        return
    with pytest.raises(UpstreamProtocolError, match=f"{came.name} while {state.name}"):
        next_state(state, came)


def test_after_its_end_a_choice_may_say_nothing():
    for say in Say:
        for said_so_far in (Said.ENDED, Said.MUTE):
            with pytest.raises(UpstreamProtocolError, match=f"{say.name}.*{said_so_far.name}"):
                next_said(said_so_far, say)
    assert {key for key in SAID_TRANSITIONS if key[0] < Said.ENDED} == set(SAID_TRANSITIONS)


def test_text_after_the_finish_reason_is_an_error():
    result = play(ROLE, chunk({"content": "a"}), chunk({}, "stop"), chunk({"content": "b"}), DONE)

    assert result.error["code"] == "malformed_upstream_answer"


def test_a_stream_of_nothing_is_an_error():
    assert play(DONE).error["message"].endswith("DONE while WAITING.")
    assert play(b"").error["message"].endswith("EOF while WAITING.")


def test_a_finish_reason_without_done_is_an_error():
    assert play(ROLE, chunk({"content": "a"}), chunk({}, "stop")).error["message"].endswith("EOF while FINISHED.")


# --- R2, H9: content


def test_space_before_a_call_is_dropped_and_space_before_text_is_kept():
    assert final({"content": "Hm.\n"}, {"content": "\n"}, calls(WEATHER))["content"] == "Hm."
    assert final({"content": "Hm.\n"}, {"content": "\n"}, {"content": "So."})["content"] == "Hm.\n\nSo."
    assert final({"content": "Hm.\n\n"})["content"] == "Hm.\n\n"


def test_space_goes_on_at_once_when_no_tools_are_offered():
    result = said({"content": "a\n"}, {"content": "b "}, expectation=expect(tool_names={}))

    assert result.deltas == [{"content": "a\n"}, {"content": "b "}]


def test_a_model_that_writes_only_space_is_not_held_back_for_ever():
    translator = StreamTranslator(expect())
    translator.receive(ROLE + chunk({"content": "a"}))

    out = [translator.receive(chunk({"content": "\n" * 10})) for _ in range(50)]

    assert sum(map(bool, out)) > 40


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Pre", "fix: yes"], " yes"),
        (["Prefix:"], None),
        (["Pref", "ab"], "Prefab"),
        (["Pre"], "Pre"),
        (["No Prefix:"], "No Prefix:"),
        (["Prefix:Prefix:"], "Prefix:"),
    ],
)
def test_an_echoed_prefix_is_cut_once(texts, expected):
    message = final(*({"content": text} for text in texts), echoed_prefix="Prefix:", tool_names={})

    assert message.get("content") == expected


def test_parts_of_the_hosted_api_become_text_and_reasoning():
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}, {"type": "reference", "reference_ids": [1]}]},
        {"type": "thinking", "thinking": "."},
        {"type": "text", "text": "Yes"},
        {"type": "reference", "reference_ids": [1], "text": " [1]"},
        {"type": "image_url", "image_url": "x"},
        "!",
        7,
    ]

    message = final({"content": parts})

    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes [1]!")


# --- R4: swallowed calls


def test_an_answer_of_which_nothing_arrived_is_an_error_of_its_own_kind():
    result = said({"content": ""}, spent=14)

    assert isinstance(result.translator.error, SwallowedToolCall)
    assert result.error["code"] == "tool_call_swallowed"
    assert [part["choices"][0]["finish_reason"] for part in result.chunks if "choices" in part] == [None]


@pytest.mark.parametrize(
    ("deltas", "finish", "spent", "facts"),
    [
        ([], "stop", 5, {}),
        ([], "length", 14, {}),
        ([], "stop", 14, {"tool_names": {}}),
        ([], "stop", 14, {"tool_choice": "none"}),
        ([{"content": "a"}], "stop", 14, {}),
        ([{"reasoning": "a"}], "stop", 14, {}),
    ],
)
def test_other_short_answers_are_answers(deltas, finish, spent, facts):
    result = said(*deltas, finish=finish, spent=spent, expectation=expect(**facts))

    assert result.translator.error is None
    assert assembled(result)[0]["finish_reason"] == finish


def test_one_silent_choice_beside_one_that_speaks_is_no_error():
    result = play(
        ROLE, chunk({}, "stop"), chunk({"role": "assistant", "content": "b"}, "stop", index=1), usage(14), DONE
    )

    assert {index: message["finish_reason"] for index, message in assembled(result).items()} == {0: "stop", 1: "stop"}


# --- R5, R9: forms


def test_names_are_restored():
    message = final(calls(WEATHER), tool_names={"get_weather": "weather.get"})

    assert message["tool_calls"][0]["function"]["name"] == "weather.get"


@pytest.mark.parametrize(
    ("arguments", "text"), [('{"input": "a\\nb"}', "a\nb"), ('{"x": 1}', '{"x": 1}'), ('{"input": 1}', '{"input": 1}')]
)
def test_a_custom_tool_gets_its_text(arguments, text):
    message = final(calls(call(0, "get_time", arguments, "abcDEF123")), custom_tools=frozenset({"get_time"}))

    assert message["tool_calls"] == [
        {"id": "abcDEF123", "type": "custom", "custom": {"name": "get_time", "input": text}}
    ]


def test_a_client_of_functions_gets_its_first_call_as_function_call():
    second = call(1, "get_time", "{}", "zyxWVU987")
    message = final(calls(WEATHER), calls(second), finish="tool_calls", legacy_functions=True)

    assert message == {
        "function_call": {"name": "get_weather", "arguments": '{"city": "SF"}'},
        "finish_reason": "function_call",
    }


def test_each_call_comes_whole_if_so_configured():
    fragments = [calls(call(0, "get_weather", "{", "abcDEF123")), *(calls(call(0, None, piece)) for piece in '"a":1}')]
    result = said(*fragments, calls(call(1, "get_time", "", "zyxWVU987")), expectation=expect({"tool_stream": "whole"}))

    assert [delta["tool_calls"] for delta in result.deltas] == [
        [
            {
                "index": 0,
                "id": "abcDEF123",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"a":1}'},
            }
        ],
        [{"index": 1, "id": "zyxWVU987", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}],
    ]
    assert "one_delta_per_call" in result.rules


# --- R6: identity


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("abcDEF123", "abcDEF123"),
        ("call_abcDEF123", "abcDEF123"),
        ("chatcmpl-tool-0123456789abcdef", "9QaGsc9zl"),
        (None, nine_char_digest("~resp:chatcmpl-1:0:0")),
        ("", nine_char_digest("~resp:chatcmpl-1:0:0")),
        ("null", nine_char_digest("~resp:chatcmpl-1:0:0")),
        (7, nine_char_digest("7")),
    ],
)
def test_every_id_has_nine_alphanumerics(raw, expected):
    (made,) = final(calls(call(0, "get_time", "{}", raw)))["tool_calls"]

    assert made["id"] == expected
    assert is_nine_char_id(made["id"])


def test_ids_are_unique_in_a_message():
    same = [call(index, "get_time", "{}", "abcDEF123") for index in range(3)]
    ids = [made["id"] for made in final(*map(calls, same))["tool_calls"]]

    assert ids[0] == "abcDEF123"
    assert len(set(ids)) == 3


def test_ids_may_have_the_prefix_that_some_clients_expect():
    message = final(calls(WEATHER), options={"client_ids": "call_prefix"})

    assert message["tool_calls"][0]["id"] == "call_abcDEF123"


def test_a_repeated_id_and_name_are_sent_once():
    fragment = {"index": 0, "id": "abcDEF123", "type": "function", "function": {"name": "get_time", "arguments": "{"}}
    result = said(calls(fragment), calls({**fragment, "function": {"name": "get_time", "arguments": "}"}}))

    assert assembled(result)[0]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert "one_index_per_call" in result.rules


def test_a_late_id_belongs_to_the_call_that_has_none():
    message = final(calls(call(0, "get_time", "{")), calls(call(0, None, "}", "abcDEF123")))

    assert len(message["tool_calls"]) == 1


@pytest.mark.parametrize("position", [None, 0])
def test_calls_that_share_an_index_are_told_apart_by_id_or_by_name_after_the_end(position):
    by_id = final(
        calls(call(position, "get_time", "{}", "abcDEF123")), calls(call(position, "get_time", "{}", "zyxWVU987"))
    )
    by_name = final(calls(call(position, "get_time", "{}")), calls(call(position, "get_weather", "{}")))

    assert [made["id"] for made in by_id["tool_calls"]] == ["abcDEF123", "zyxWVU987"]
    assert [made["function"]["name"] for made in by_name["tool_calls"]] == ["get_time", "get_weather"]


def test_indices_are_made_contiguous():
    assert len(final(calls(call(3, "get_time", "{}")), calls(call(7, "get_time", "{}")))["tool_calls"]) == 2


def test_a_call_without_a_name_is_an_error():
    assert said(calls(call(0, None, "{}"))).error["code"] == "malformed_tool_call"


@pytest.mark.parametrize("name", ["get_time[ARGS]", " get_time", "get_timeabcDEF123"])
def test_a_name_is_cleaned_if_that_makes_it_a_tool_s(name):
    assert final(calls(call(0, name, "{}")))["tool_calls"][0]["function"]["name"] == "get_time"


def test_a_name_that_no_tool_has_stays():
    assert final(calls(call(0, "no_such_tool", "{}")))["tool_calls"][0]["function"]["name"] == "no_such_tool"


# --- R7, R8: arguments


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, "{}"),
        ("", "{}"),
        (" \n", "{}"),
        ({"a": "é"}, '{"a":"é"}'),
        ({}, "{}"),
        (' {"a": 1}', '{"a": 1}'),
        ("[ARGS]{}", "{}"),
        ("```json\n{}", "{}"),
        ('[TOOL_CALLS]get_weather{"a": 1}', '{"a": 1}'),
        ('[TOOL_CALLS]get_weather[ARGS]{"a": 1}', '{"a": 1}'),
        ("[1]", "[1]"),
        ([1], "[1]"),
        ("null", "null"),
        ("text", "text"),
        ('{"a": }', '{"a": }'),
        ("[AR", "[AR"),
    ],
)
def test_arguments_are_text_and_what_is_no_object_is_kept(sent, expected):
    assert final(calls(call(0, "get_weather", sent)))["tool_calls"][0]["function"]["arguments"] == expected


@pytest.mark.parametrize(("spaces", "is_object"), [(128, True), (129, False)])
def test_only_so_much_space_before_the_arguments_is_held_back(spaces, is_object):
    text = " " * spaces + "{}"
    at_once = final(calls(call(0, "get_time", text, "abcDEF123")))
    in_pieces = final(calls(call(0, "get_time", "", "abcDEF123")), *(calls(call(0, None, char)) for char in text))

    assert at_once == in_pieces
    assert at_once["tool_calls"][0]["function"]["arguments"] == ("{}" if is_object else text)


def test_text_after_the_arguments_is_content_or_dropped():
    deltas = [
        calls(call(0, "get_time", '{"a": "}"', "abcDEF123")),
        calls(call(0, None, "}It")),
        calls(call(0, None, " is")),
    ]
    kept, dropped = final(*deltas), final(*deltas, options={"trailing_text": "drop"})

    assert kept["content"] == "It is"
    assert "content" not in dropped
    assert kept["tool_calls"] == dropped["tool_calls"]
    assert kept["tool_calls"][0]["function"]["arguments"] == '{"a": "}"}'


def test_a_call_without_arguments_has_them_before_the_next_one_begins():
    result = said(calls(call(0, "get_time", "")), calls(call(1, "get_weather", "{}")))

    assert [fragment["function"]["arguments"] for delta in result.deltas for fragment in delta["tool_calls"]] == [
        "",
        "{}",
        "{}",
    ]


@pytest.mark.parametrize(
    ("cut", "tail"), [('{"a": "b', '"}'), ('{"a": [1', "]}"), ('{"a":', "null}"), ('{"a": {"b": "c\\', '\\"}}')]
)
def test_cut_arguments_are_closed_if_so_configured(cut, tail):
    deltas = [calls(call(0, "get_weather", cut, "abcDEF123"))]
    message = final(*deltas, options={"bad_args": "repair"}, finish="tool_calls")

    assert message["tool_calls"][0]["function"]["arguments"] == cut + tail
    assert message["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("options", [{}, {"bad_args": "repair"}])
def test_arguments_cut_at_the_limit_are_never_completed(options):
    message = final(calls(call(0, "get_weather", '{"a":', "abcDEF123")), options=options, finish="length")

    assert message["tool_calls"][0]["function"]["arguments"] == '{"a":'
    assert message["finish_reason"] == "length"


# --- R10: finish reason


@pytest.mark.parametrize(
    ("upstream", "text_only", "with_call"),
    [
        ("stop", "stop", "tool_calls"),
        ("tool_calls", "stop", "tool_calls"),
        ("length", "length", "length"),
        ("model_length", "length", "length"),
        ("content_filter", "content_filter", "content_filter"),
        ("abort", "stop", "tool_calls"),
        ("repetition", "stop", "tool_calls"),
        ("eos", "stop", "tool_calls"),
    ],
)
def test_the_finish_reason_fits_the_answer(upstream, text_only, with_call):
    assert final({"content": "a"}, finish=upstream)["finish_reason"] == text_only
    assert final(calls(WEATHER), finish=upstream)["finish_reason"] == with_call


@pytest.mark.parametrize("delta", [{"content": "a"}, calls(WEATHER)], ids=["text", "call"])
def test_a_stream_that_is_done_without_a_finish_reason_is_an_error(delta):
    result = said(delta, finish=None)

    assert result.error["code"] == "upstream_disconnected"
    assert not any(choice["finish_reason"] for part in result.chunks for choice in part.get("choices", ()))


def test_an_announced_call_that_does_not_arrive_is_an_error():
    """Not every server sends usage: what it says of its own answer is proof enough."""
    result = play(ROLE, chunk({}, "tool_calls"), DONE)

    assert result.error["code"] == "tool_call_swallowed"
    with pytest.raises(SwallowedToolCall):
        translate_completion(whole({"content": None}, "tool_calls"), expect())


def test_a_named_choice_may_say_stop_if_so_configured():
    named = {"tool_choice": "named", "finish": "stop"}

    assert final(calls(WEATHER), **named)["finish_reason"] == "tool_calls"
    assert final(calls(WEATHER), options={"named_finish": "stop"}, **named)["finish_reason"] == "stop"


@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
def test_an_answer_that_ends_inside_a_call_says_length(finish):
    in_arguments = final(calls(call(0, "get_weather", '{"city":', "abcDEF123")), finish=finish)
    in_name = final(calls(call(0, "get_w", "", "abcDEF123")), finish=finish)

    assert in_arguments["finish_reason"] == in_name["finish_reason"] == "length"
    assert in_name["tool_calls"][0]["function"]["arguments"] == ""


def test_finish_reason_error_is_an_error_event():
    result = play(ROLE, chunk({"content": "a"}), chunk({}, "error"), DONE)

    assert isinstance(result.translator.error, UpstreamError)
    assert result.error["type"] == "server_error"


def test_an_empty_finish_reason_is_none_yet():
    message = assembled(play(ROLE, chunk({"content": "a"}, ""), chunk({"content": "b"}, "stop"), DONE))[0]

    assert message == {"content": "ab", "finish_reason": "stop"}


# --- R11: reasoning


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("both", {"reasoning": "Hm", "reasoning_content": "Hm", "content": "Yes"}),
        ("reasoning", {"reasoning": "Hm", "content": "Yes"}),
        ("reasoning_content", {"reasoning_content": "Hm", "content": "Yes"}),
        ("content", {"content": "HmYes"}),
        ("drop", {"content": "Yes"}),
    ],
)
@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning": "Hm"}, {"content": "Yes"}],
        [{"reasoning_content": "Hm"}, {"content": "Yes"}],
        [{"reasoning": "Hm", "reasoning_content": "Hm"}, {"content": "Yes"}],
        [{"content": "[THI"}, {"content": "NK]Hm[/THI"}, {"content": "NK]Yes"}],
        [{"content": " <think>Hm</think>Yes"}],
    ],
)
def test_reasoning_of_any_form_comes_under_the_configured_name(field, expected, deltas):
    message = final(*deltas, options={"reasoning_field": field})

    assert {key: message[key] for key in message if key != "finish_reason"} == expected


def test_untouched_reasoning_stays_under_its_own_name():
    assert final({"reasoning": "Hm"}, {"content": "a"}, options={"reasoning_field": "untouched"})["reasoning"] == "Hm"


@pytest.mark.parametrize("text", ["a [THINK]b[/THINK]", "<thinking>", "[THIN", "<", "[/THINK]"])
def test_tags_elsewhere_are_text(text):
    assert final({"content": text})["content"] == text


def test_a_tag_after_much_space_is_text():
    text = " " * 65 + "<think>a</think>"

    assert final({"content": text})["content"] == final(*({"content": char} for char in text))["content"] == text


def test_the_start_of_a_tag_before_a_call_is_said_before_it():
    result = said({"content": "<"}, calls(WEATHER), {"content": "[THINK]a"})

    assert [list(delta) for delta in result.deltas] == [["content"], ["tool_calls"], ["content"]]
    assert final(calls(WEATHER), {"content": "[THINK]a[/THINK]"})["reasoning"] == "a"


def test_thoughts_that_are_given_as_content_end_at_their_tag():
    pieces = [{"content": text} for text in ("<think>a", "b", "c", "d</think>e")]

    assert final(*pieces, options={"reasoning_field": "content"}, tool_names={})["content"] == "abcde"


def test_tags_are_text_if_so_configured():
    assert final({"content": "[THINK]a[/THINK]"}, options={"extract_think": False})["content"] == "[THINK]a[/THINK]"


def test_an_answer_of_nothing_but_reasoning_is_repeated_as_content():
    assert final({"reasoning": "4"})["content"] == "4"
    assert final({"reasoning": "so <response>4</response>"})["content"] == "4"
    assert "content" not in final({"reasoning": "4"}, options={"reasoning_fallback": False})
    assert "content" not in final({"reasoning": "4"}, finish="length")
    assert "content" not in final({"reasoning": "4"}, calls(WEATHER))


# --- R12: usage


def test_usage_comes_once_and_last_if_it_was_asked_for():
    result = said({"content": "a"}, spent=3)

    assert [part["usage"]["completion_tokens"] for part in result.chunks if "usage" in part] == [3]
    assert result.chunks[-1]["choices"] == []
    assert result.translator.usage == Usage(1, 3, 4)


def test_usage_is_known_but_not_shown_if_it_was_not_asked_for():
    result = said({"content": "a"}, spent=3, expectation=expect(usage_wanted=False))

    assert not any("usage" in part for part in result.chunks)
    assert result.translator.usage == Usage(1, 3, 4)


def test_usage_in_the_finish_chunk_is_moved_and_its_total_filled():
    counters = {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    result = play(ROLE, chunk({"content": "a"}, "stop", usage=counters), DONE)

    assert result.chunks[-1]["choices"] == []
    assert result.chunks[-1]["usage"] == {**counters, "total_tokens": 3}
    assert sum("usage" in part for part in result.chunks) == 1


def test_usage_that_is_none_is_an_error():
    assert play(ROLE, event({**HEAD, "choices": [], "usage": {"prompt_tokens": "x"}}), DONE).error


# --- R14: vendor fields


def test_vendor_fields_are_removed_whatever_they_hold():
    choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": None, "token_ids": [1], "stop_reason": None}
    result = play(ROLE, event({**HEAD, "choices": [choice], "metrics": None, "prompt_text": "x"}), DONE)

    assert not any(key in result.out for key in (b"token_ids", b"stop_reason", b"metrics"))
    assert "strip_vendor_fields" in result.rules


def test_vendor_names_inside_text_are_text():
    text = ',"token_ids":null,"stop_reason":null'

    assert final({"content": text}, {"content": text})["content"] == text * 2


def test_vendor_fields_stay_if_so_configured():
    stream = chunk({"content": "a"}, token_ids=[1])

    assert stream in play(ROLE, stream, DONE, expectation=expect({"strip_vendor_fields": False})).out


# --- limits, names


def test_an_event_over_the_limit_ends_the_stream():
    translator = StreamTranslator(expect(), max_event_bytes=100)

    assert b"event_too_large" in translator.receive(b"data: " + b"x" * 200)
    assert translator.error is not None


def test_every_rule_that_is_noted_is_in_the_table():
    result = said(
        {"content": "[THINK]a[/THINK]Hm. "},
        {"content": "[TOOL_CALLS]get_weather[ARGS]{}"},
        {"role": "assistant"},
        expectation=expect({"tool_stream": "whole"}, tool_names={"get_weather": "get weather"}, usage_wanted=False),
    )

    assert len(result.rules) > 6
    assert set(result.rules) <= set(ANSWER_RULES)
