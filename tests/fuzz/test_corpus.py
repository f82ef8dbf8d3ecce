"""Every input that once was odd or broke something is tried again, and a few that nobody has thought of."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import LONGEST, TOKENS, mutated
from tests.fuzz.run import TARGETS, corpus_of, search, shortened

FILES = [(target, path) for target in TARGETS for path in corpus_of(target)]
_INPUTS = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=8), max_size=30).map(b"".join)


@pytest.mark.parametrize(("target", "path"), FILES, ids=[f"{target}-{path.name}" for target, path in FILES])
def test_an_input_of_the_corpus_holds(target, path):
    TARGETS[target](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=100, deadline=None)
@given(data=_INPUTS)
def test_any_sequence_of_tokens_holds(target, data):
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_a_seed_gives_the_same_mutations_again(target):
    corpus = [path.read_bytes() for path in corpus_of(target)]
    first, second = ([mutated(corpus, chance) for _ in range(100)] for chance in (Random(1), Random(1)))

    assert first == second
    assert len(set(first)) > 50
    assert max(map(len, first)) <= LONGEST


def test_a_failing_input_is_found_and_made_shorter():
    def check(data):
        assert b"[DONE]" not in data

    _, found = search(check, [b"data: {}\n\n" * 20], 20, Random(1))

    assert found is not None
    assert shortened(check, found) == b"[DONE]"
