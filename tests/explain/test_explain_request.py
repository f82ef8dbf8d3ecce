"""What is shown of a request is all that changes in it, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.explain.differences import Change, changed_paths, changes_between, diff_lines
from proxy.explain.document import lines_of, plain_of, shortened
from proxy.explain.page import written
from proxy.explain.request import explain_request, option_of
from proxy.explain.request_page import path_of, request_rows
from proxy.translate.chat import path_text
from proxy.translate.profile import build_profile
from proxy.translate.request import translate_request
from tests.strategies import body_of, chat_requests

PROFILES = {name: build_profile(name) for name in ("vllm-mistral-tokenizer", "vllm-hf-template", "mistral-api")}

many = settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
_objects = st.fixed_dictionaries(
    {}, optional={"messages": st.lists(_values, max_size=5), "tools": st.lists(_values, max_size=3), "x": _values}
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def user(text):
    return {"role": "user", "content": text}


def shown(request, profile="vllm-mistral-tokenizer", **kwargs):
    report = explain_request(body_of(request), PROFILES[profile], **kwargs)
    return written(request_rows(report, full=False), coloured=False)


@many
@given(profile=st.sampled_from(sorted(PROFILES)).map(PROFILES.__getitem__), request=chat_requests())
def test_any_history_is_explained_to_what_is_sent(profile, request):
    body = body_of(request)
    report = explain_request(body, profile)

    assert report.request == translate_request(body, profile)
    for full in (False, True):
        text = written(request_rows(report, full=full), coloured=False)
        assert all(rule in text for rule in report.request.rules_applied)


@many
@given(before=_objects, after=_objects)
def test_changes_are_found_exactly_where_two_objects_differ(before, after):
    changes = changes_between(encoded(before), encoded(after))

    assert (changes == []) is (strictly(before) == strictly(after))
    assert list_after(before, after, changes, "messages") == [strictly(item) for item in after.get("messages", [])]


def strictly(value: Any) -> str:
    """A text that differs when a value does: in Python True is 1."""
    return json.dumps(value, sort_keys=True)


def list_after(before, after, changes, name):
    """What the changes say of a list: items that stayed, and those that came or changed at the places they have now."""
    if name not in before or name not in after:
        return [strictly(item) for item in after.get(name, [])]
    gone = {change.was for change in changes}
    kept = iter([strictly(item) for i, item in enumerate(before[name]) if (name, i) not in gone])
    came = {change.now: strictly(json.loads(change.after)) for change in changes if change.now is not None}
    return [came[name, i] if (name, i) in came else next(kept) for i in range(len(after[name]))]


@many
@given(value=_values)
def test_the_lines_of_a_value_are_json_that_says_the_same(value):
    text = "\n".join(f"{line.head}{line.value}{line.comma}" for line in lines_of(plain_of(encoded(value))))

    assert json.loads(text) == value


@pytest.mark.parametrize("number", ["1.0", "1e400", "-0", "12345678901234567890123", "9" * 5000])
def test_a_number_is_shown_as_it_was_written(number):
    assert [line.value for line in lines_of(plain_of(number.encode()))] == [number]


def test_a_number_that_becomes_a_string_is_a_change():
    assert [change.place for change in changes_between(b'{"seed": 1}', b'{"seed": "1"}')] == [("seed",)]


def test_the_order_of_keys_and_white_space_are_no_change():
    assert changes_between(b'{"a": 1, "b": {"c": 2, "d": 3}}', b'{"b":{"d":3,"c":2},"a":1}') == []


def test_a_long_text_is_shortened_to_where_it_differs():
    one = shortened('"' + "x" * 500 + "yes" + "x" * 500 + '"', '"' + "x" * 500 + "no" + '"')

    assert one.startswith("…" + "x" * 20 + "yes")
    assert one.endswith("(1,003 characters)")


@pytest.mark.parametrize("other", ["", '"' + "x" * 1003 + '"', '"' + "x" * 5000 + '"', '"y"'])
def test_a_shortened_text_is_short_whatever_it_is_compared_with(other):
    assert len(shortened('"' + "x" * 1003 + '"', other)) < 150


def test_texts_that_differ_behind_what_is_shown_are_not_shown_alike():
    before, after = encoded({"x": "a" * 900 + "b"}), encoded({"x": "a" * 900 + "c"})
    lines = diff_lines(*changes_between(before, after))

    assert len({line.text for line in lines if line.sign in "-+"}) == 2


def test_a_message_that_moved_is_said_to_have_moved():
    before = encoded({"messages": [user("a"), user("b"), user("c")]})
    after = encoded({"messages": [user("c"), user("a"), user("b")]})

    assert [(change.verb, change.was, change.now) for change in changes_between(before, after)] == [
        ("moved", ("messages", 2), ("messages", 0))
    ]


def test_paths_inside_a_place_that_is_named_are_left_out():
    change = Change(("messages", 1), ("messages", 1), encoded({"content": [1, 2]}), encoded({"content": "12"}))

    assert changed_paths([change]) == ["messages[1].content"]


def test_a_rule_that_an_option_picks_says_which():
    assert option_of("bridge_tool_to_user", PROFILES["vllm-hf-template"]) == "bridge=always"
    assert option_of("text_parts_to_string", PROFILES["vllm-hf-template"]) == "flatten_text=true"
    assert option_of("developer_to_system", PROFILES["vllm-hf-template"]) == ""


def test_changes_of_one_rule_in_many_messages_are_shown_together_and_only_some_of_them():
    text = shown({"messages": [{"role": "developer", "content": str(i)} for i in range(9)] + [user("Go")]})

    assert text.count("developer_to_system") == 1
    assert "… 6 more changes of this rule: --full shows them" in text


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"role": "bard", "content": "x"}, "at messages[1].role, in what the client sent"),
        ({"content": "x"}, "at messages[1] (`role` is not there), in what the client sent"),
        ({"role": "user", "content": 5}, "at messages[1].content, in what the client sent"),
    ],
)
def test_a_refusal_shows_the_clients_error_and_the_place(message, place):
    text = shown({"messages": [user("Hi"), message]})

    assert "refused: nothing goes upstream. The client gets HTTP 400:" in text
    assert '"type": "invalid_request_error"' in text
    assert place in text


@pytest.mark.parametrize(
    "param", ["$", "model", "messages[3].tool_calls[0].function.name", "tools[0].function.$schema"]
)
def test_a_path_can_be_read_back(param):
    assert path_text(path_of(param)) == param


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"messages": "\xff"}', b"[" * 5000])
def test_what_is_no_request_is_explained_as_it_is_refused(body):
    report = explain_request(body, PROFILES["mistral-api"])

    assert isinstance(report.error, InvalidRequest)
    assert "HTTP 400" in written(request_rows(report, full=True), coloured=False)


def test_colours_change_nothing_but_colours():
    report = explain_request(body_of({"messages": [{"role": "developer", "content": "x"}]}), PROFILES["mistral-api"])
    plain = written(request_rows(report, full=False), coloured=False)
    coloured = written(request_rows(report, full=False), coloured=True)
    for parameters in ("0", "1", "2", "31", "32", "36", "1;32"):
        coloured = coloured.replace(f"\x1b[{parameters}m", "")

    assert "\x1b" not in coloured
    assert [line.rstrip() for line in coloured.splitlines()] == plain.splitlines()
