"""Every input that once was odd or broke something is tried again, and a few that nobody has thought of."""

import math
from contextlib import ExitStack
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, Choice
from tests.fuzz import json_edits, request
from tests.fuzz.mutate import LONGEST, TOKENS
from tests.fuzz.run import TARGETS, Bounds, corpus_of, search, shortened

#: Those that need no process; the others' corpora are played through one process each.
PURE = ["sse", "stream", "request"]
FILES = [(target, path) for target in PURE for path in corpus_of(target)]
_INPUTS = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=8), max_size=30).map(b"".join)
_VALUES = st.lists(
    st.sampled_from(json_edits.VALUES)
    | st.sampled_from(json_edits.KEYS).map(lambda key: b'"' + key + b'":')
    | st.sampled_from((b"{", b"}", b"[", b"]", b",", b'{"messages":[')),
    max_size=30,
).map(b"".join)


@pytest.fixture(scope="module")
def checks():
    """The checks of the targets that need no process, by name."""
    with ExitStack() as stack:
        yield {target: stack.enter_context(TARGETS[target].opened()) for target in PURE}


@pytest.mark.parametrize(("target", "path"), FILES, ids=[f"{target}-{path.name}" for target, path in FILES])
def test_an_input_of_the_corpus_holds(checks, target, path):
    checks[target](path.read_bytes())


def test_a_running_proxy_answers_every_body_of_the_corpus():
    with TARGETS["edge"].opened() as check:
        answers = {path.name: check(path.read_bytes()) for path in corpus_of("edge")}

    assert {"answered with 200", "answered with 400"} <= set(answers.values())


@pytest.mark.parametrize("target", PURE)
@settings(max_examples=100, deadline=None)
@given(data=_INPUTS)
def test_any_sequence_of_tokens_holds(checks, target, data):
    checks[target](data)


@settings(max_examples=100, deadline=None)
@given(data=_VALUES)
def test_any_sequence_of_values_holds(data):
    request.check(data)


@pytest.mark.parametrize("target", TARGETS)
def test_a_seed_gives_the_same_mutations_again(target):
    corpus = [path.read_bytes() for path in corpus_of(target)]
    mutated = TARGETS[target].mutated
    first, second = ([mutated(corpus, chance) for _ in range(100)] for chance in (Random(1), Random(1)))

    assert first == second
    assert len(set(first)) > 50


@pytest.mark.parametrize("target", TARGETS)
def test_a_mutation_is_of_bounded_size_whatever_is_found(target):
    corpus = [path.read_bytes() for path in corpus_of(target)] + [b'{"a":"%b"}' % (b"x" * (LONGEST - 8))] * 50
    chance = Random(1)

    assert max(len(TARGETS[target].mutated(corpus, chance)) for _ in range(500)) <= 2 * LONGEST


def test_a_failing_input_is_found_and_made_shorter():
    def check(data):
        assert b"[DONE]" not in data

    chance, corpus = Random(1), [b"data: {}\n\n" * 20]
    found = search(check, lambda: TARGETS["sse"].mutated(corpus, chance), Bounds(math.inf, 20))

    assert found.failing is not None
    assert isinstance(found.error, AssertionError)
    assert shortened(check, found.failing) == b"[DONE]"


def test_an_input_that_fails_once_only_is_kept_as_it_was():
    def check(_):
        failures.append(1)
        assert len(failures) > 1

    failures = []
    found = search(check, lambda: b"abc", Bounds(5, 20))

    assert (found.tried, found.failing) == (1, b"abc")
    assert shortened(check, found.failing) == b"abc"


@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
def test_how_deep_a_body_may_be_is_not_what_is_looked_for(opened):
    """At some depths Python's parser takes less than the proxy, and one way of translating less than another."""
    closed = b"]" if opened == b"[" else b"}"
    for depth in range(900, 1000):
        nested = opened * depth + b"1" + closed * depth
        request.check(b'{"model":"m","messages":[{"role":"user","content":"a"}],"x":%b}' % nested)
        call = {"id": "abcDEF123", "function": {"name": "f", "arguments": (b'{"a":%b}' % nested).decode()}}
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]
        request.check(msgspec.json.encode({"model": "m", "messages": messages}))


def test_a_search_ends_at_the_bound_that_is_reached_first():
    def mutated():
        return b""

    assert search(len, mutated, Bounds(7, math.inf)).outcomes == {0: 7}
    assert search(len, mutated, Bounds(7, 0)).tried == 0


def test_every_rule_that_loses_nothing_is_in_one_of_the_profiles_that_are_fuzzed():
    rules = {
        rule
        for entry in (*MESSAGE_RULES, *CHAT_RULES)
        for rule in (entry.rules.values() if isinstance(entry, Choice) else [entry])
    }
    fuzzed = {rule for profile in request.PROFILES.values() for rule in (*profile.message_rules, *profile.rules)}

    assert {rule.__name__ for rule in rules - fuzzed} == {"orphan_result_dropped"}


def test_the_scan_finds_every_value_of_a_text():
    text = b'{"a": [1, {"b" : "x:,]"}, null], "c":{}}'
    found = [(text[item:end], text[start:end]) for item, start, end in json_edits.nodes_of(text)]

    assert found == [
        *((value, value) for value in (b"1",)),
        (b'"b" : "x:,]"', b'"x:,]"'),
        (b'{"b" : "x:,]"}', b'{"b" : "x:,]"}'),
        (b"null", b"null"),
        (b'"a": [1, {"b" : "x:,]"}, null]', b'[1, {"b" : "x:,]"}, null]'),
        (b'"c":{}', b"{}"),
        (text, text),
    ]


@pytest.mark.parametrize("edit", dict.fromkeys(json_edits.EDITS), ids=lambda edit: edit.__name__)
def test_an_edit_of_json_is_json_again(edit):
    """But for what is put inside strings and the few odd values: so rules are reached, and not the parser alone."""
    corpus = [path.read_bytes() for path in corpus_of("request")]
    chance, whole, tried = Random(1), 0, 0
    for text in corpus:
        if not request.is_json(text):
            continue
        for _ in range(5):
            tried += 1
            whole += request.is_json(edit(text, json_edits.nodes_of(text), corpus, chance))

    assert whole / tried > 0.6
