"""The policies: what each promises, for any replicas and any requests."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Config
from proxy.upstream.choice import LOAD_FACTOR, POLICIES, Ask, PromptMemory, digest, make_policy

#: derandomize: a run of the suite draws what the last one drew. No deadline: a machine's load is no failure.
many = settings(max_examples=300, derandomize=True, deadline=None)
#: Rounding: a bound that is a whole number may come out a little higher.
ROUNDING = 1 + 1e-9


@dataclass
class Replica:
    name: str
    weight: float = 1.0
    in_flight: int = 0

    def __post_init__(self):
        self.key = digest(self.name.encode())

    @property
    def pressure(self):
        return (self.in_flight + 1) / self.weight


def replicas(*in_flight, weights=None):
    return [
        Replica(f"replica-{i}", weight, running)
        for i, (running, weight) in enumerate(zip(in_flight, weights or [1.0] * len(in_flight), strict=True))
    ]


def bound(pool, replica):
    """The most requests that a replica may have, the one to be placed included."""
    total = sum(each.in_flight for each in pool) + 1
    return math.ceil(LOAD_FACTOR * total * replica.weight / sum(each.weight for each in pool) * ROUNDING)


def named(pool, name):
    return next(replica for replica in pool if replica.name == name)


weights = st.floats(0.01, 100)
pools = st.lists(st.tuples(weights, st.integers(0, 40)), min_size=1, max_size=12).map(
    lambda rows: replicas(*(running for _, running in rows), weights=[weight for weight, _ in rows])
)
prompts = st.integers(0, 2**32 - 1)
asks = st.builds(
    Ask,
    number=st.integers(0, 2**40),
    session=st.binary(max_size=8),
    chain=st.one_of(st.just(()), st.tuples(prompts), st.tuples(prompts, prompts)),
    root=st.integers(0, 2**64 - 1),
)
every_policy = pytest.mark.parametrize("name", list(POLICIES))
#: Those that a request's own digest decides in, and how a request is made for each.
BY_DIGEST = {
    "session": lambda word: Ask(session=word),
    "prefix": lambda word: Ask(root=digest(word)),
}
by_digest = pytest.mark.parametrize("name", list(BY_DIGEST))


# --- all of them


def test_the_configuration_knows_the_same_policies():
    assert set(get_args(get_type_hints(Config)["balance"])) == set(POLICIES)


def test_an_unknown_policy_is_an_error():
    with pytest.raises(KeyError):
        make_policy("fastest")


@every_policy
@many
@given(pool=pools, ask=asks)
def test_a_policy_chooses_one_of_those_it_is_given(name, pool, ask):
    assert any(make_policy(name)(pool, ask) is replica for replica in pool)


@every_policy
@many
@given(pool=pools, ask=asks)
def test_the_same_request_among_the_same_replicas_goes_to_the_same_one(name, pool, ask):
    assert make_policy(name)(pool, ask) is make_policy(name)(pool, ask)


@every_policy
def test_requests_that_do_not_end_are_spread_in_proportion_to_the_weights(name):
    pool = replicas(0, 0, 0, weights=[1.0, 2.0, 0.5])
    policy = make_policy(name)
    for number in range(700):
        word = b"%d" % number
        policy(pool, Ask(number, word, (number,), digest(word))).in_flight += 1

    assert [replica.in_flight for replica in pool] == pytest.approx([200, 400, 100], rel=0.26)


# --- least_in_flight


@many
@given(pool=pools, ask=asks)
def test_nobody_has_fewer_requests_for_its_weight_than_the_least_in_flight(pool, ask):
    chosen = make_policy("least_in_flight")(pool, ask)

    assert chosen.pressure == min(replica.pressure for replica in pool)


@many
@given(busy=st.lists(st.booleans(), min_size=1, max_size=12), first=st.integers(0, 1000))
def test_of_equals_each_gets_its_turn(busy, first):
    pool = replicas(*(3 if each else 1 for each in busy))
    least = [replica for replica in pool if replica.in_flight == min(each.in_flight for each in pool)]
    chosen = [make_policy("least_in_flight")(pool, Ask(first + i)) for i in range(len(least))]

    assert Counter(replica.name for replica in chosen) == {replica.name: 1 for replica in least}


# --- round_robin


@many
@given(size=st.integers(1, 50), weight=weights, first=st.integers(0, 2**40))
def test_equal_weights_are_served_in_strict_order(size, weight, first):
    pool = replicas(*[0] * size, weights=[weight] * size)
    policy = make_policy("round_robin")

    assert [policy(pool, Ask(first + i)) for i in range(size)] == [pool[(first + i) % size] for i in range(size)]


@many
@given(shares=st.lists(st.floats(0.05, 20), min_size=2, max_size=8))
def test_each_round_gives_every_weight_its_share_rounded_up_or_down(shares):
    size = len(shares)
    pool = replicas(*[0] * size, weights=shares)
    policy = make_policy("round_robin")
    for turn in range(20):
        counted = Counter(policy(pool, Ask(turn * size + i)).name for i in range(size))
        for replica in pool:
            assert abs(counted[replica.name] - size * replica.weight / sum(shares)) < 1 + 1e-6


def test_many_rounds_give_every_weight_its_exact_share():
    pool = replicas(0, 0, 0, weights=[1.0, 0.3, 0.05])
    counted = Counter(make_policy("round_robin")(pool, Ask(i)).name for i in range(13_500))

    assert [counted[replica.name] for replica in pool] == pytest.approx([10_000, 3_000, 500], abs=5)


# --- power_of_two


@many
@given(running=st.lists(st.integers(0, 9), min_size=1, max_size=12), number=st.integers(0, 2**40))
def test_of_two_that_are_drawn_the_busiest_is_never_chosen(running, number):
    pool = replicas(*running, 10)

    assert make_policy("power_of_two")(pool, Ask(number)) is not pool[-1]


def test_each_replica_is_drawn_as_often_as_its_weight_says():
    pool = replicas(*[0] * 5)
    counted = Counter(make_policy("power_of_two")(pool, Ask(i)).name for i in range(20_000))

    assert [counted[replica.name] for replica in pool] == pytest.approx([4_000] * 5, rel=0.05)


def test_the_draws_of_neighbouring_numbers_show_no_order():
    pool = replicas(*[0] * 4)
    drawn = [make_policy("power_of_two")(pool, Ask(i)).name for i in range(8_000)]
    pairs = Counter(pairwise(drawn))

    assert len(pairs) == 16
    assert list(pairs.values()) == pytest.approx([500] * 16, rel=0.2)


def test_a_pool_of_many_light_replicas_does_not_drown_them():
    """Nine in ten have 47% of all weight: drawn without regard to weights, they would get over 80% of the requests."""
    pool = replicas(*[0] * 20, weights=[0.1] * 18 + [1.0] * 2)
    policy = make_policy("power_of_two")
    for number in range(3_800):
        policy(pool, Ask(number)).in_flight += 1

    assert sum(replica.in_flight for replica in pool[:18]) < 1_900


# --- bounded-load rendezvous hashing


@by_digest
@many
@given(pool=pools, word=st.binary(min_size=1, max_size=8))
def test_nobody_above_the_bound_is_chosen(name, pool, word):
    """F35."""
    chosen = make_policy(name)(pool, BY_DIGEST[name](word))

    assert chosen.in_flight + 1 <= bound(pool, chosen)


@many
@given(pool=pools, prompt=prompts, word=st.binary(min_size=1, max_size=8))
def test_nobody_above_the_bound_is_chosen_for_having_run_the_turn_before(pool, prompt, word):
    """F35."""
    policy = make_policy("prefix")
    ask = Ask(chain=(prompt,), root=digest(word))
    first = policy(pool, ask)
    first.in_flight += 5
    then = policy(pool, ask._replace(chain=(prompt, prompt ^ 1)))

    assert then.in_flight + 1 <= bound(pool, then)


@by_digest
def test_a_request_leaves_a_replica_that_has_too_much_and_comes_back(name):
    """F35: 5 of 4 x 4 requests are the bound; the sixth goes elsewhere, always to the same place."""
    pool = replicas(4, 4, 4, 4)
    ask = BY_DIGEST[name](b"a conversation")
    home = make_policy(name)(pool, ask)
    home.in_flight = 6
    away = {make_policy(name)(pool, ask).name for _ in range(3)}
    home.in_flight = 4

    assert len(away) == 1
    assert home.name not in away
    assert make_policy(name)(pool, ask) is home


@by_digest
@many
@given(size=st.integers(2, 12), word=st.binary(min_size=1, max_size=8), gone=st.integers(0, 11))
def test_a_replica_that_leaves_moves_only_what_was_its_own(name, size, word, gone):
    pool = replicas(*[0] * size)
    policy, ask = make_policy(name), BY_DIGEST[name](word)
    before = policy(pool, ask)
    rest = [replica for replica in pool if replica is not pool[gone % size]]

    assert policy(rest, ask) is before or before not in rest


@by_digest
def test_what_a_replica_leaves_is_spread_over_all_others(name):
    pool = replicas(*[0] * 9)
    policy = make_policy(name)
    left = [ask for ask in (BY_DIGEST[name](b"%d" % i) for i in range(36_000)) if policy(pool, ask) is pool[4]]
    counted = Counter(policy(pool[:4] + pool[5:], ask).name for ask in left)

    assert len(left) == pytest.approx(4_000, rel=0.1)
    assert list(counted.values()) == pytest.approx([500] * 8, rel=0.2)


@by_digest
def test_an_idle_pool_serves_in_proportion_to_the_weights(name):
    pool = replicas(0, 0, 0, weights=[1.0, 2.0, 0.5])
    policy = make_policy(name)
    counted = Counter(policy(pool, BY_DIGEST[name](b"%d" % i)).name for i in range(14_000))

    assert [counted[replica.name] for replica in pool] == pytest.approx([4_000, 8_000, 2_000], rel=0.05)


@by_digest
def test_eight_digests_for_all_requests_leave_every_replica_within_its_bound(name):
    """F34: the worst that affinity can be asked for."""
    pool = replicas(*[0] * 8)
    policy = make_policy(name)
    for number in range(800):
        policy(pool, BY_DIGEST[name](b"hot %d" % (number % 8))).in_flight += 1

    assert max(replica.in_flight for replica in pool) <= math.ceil(LOAD_FACTOR * 100)


def test_the_order_of_the_replicas_decides_nothing():
    pool = replicas(*[0] * 9)
    ask = Ask(session=b"a session")

    assert make_policy("session")(pool, ask) is make_policy("session")(pool[::-1], ask)


@pytest.mark.parametrize(("text", "number"), [(b"", 0xE4A6A0577479B2B4), (b"replica-0", 0xD60B66FEC5320E7D)])
def test_a_digest_is_the_same_in_every_version(text, number):
    """Those of `b2sum --length 64`."""
    assert digest(text) == number


def test_a_session_has_the_same_replica_in_every_version():
    pool = replicas(*[0] * 9)

    assert [make_policy("session")(pool, Ask(session=b"%d" % i)).name[-1] for i in range(12)] == list("721664421663")


@by_digest
@many
@given(pool=pools, number=st.integers(0, 2**40))
def test_what_belongs_to_nobody_goes_to_the_least_in_flight(name, pool, number):
    ask = Ask(number, chain=(7,))

    assert make_policy(name)(pool, ask) is make_policy("least_in_flight")(pool, ask)


# --- prefix: what is remembered


def test_the_next_turn_follows_the_one_before_wherever_that_ran():
    pool = replicas(0, 0, 0, 0)
    policy = make_policy("prefix")
    ask = Ask(chain=(1,), root=digest(b"opening"))
    home = policy(pool, ask)
    home.in_flight = 9
    away = policy(pool, ask._replace(chain=(1, 2)))
    home.in_flight = 0

    assert away is not home
    assert policy(pool, ask._replace(chain=(2, 3))) is away
    assert policy(pool, ask._replace(chain=(3, 4), root=digest(b"another"))) is away


def test_a_prompt_that_is_sent_again_goes_where_it_ran():
    pool = replicas(0, 0, 0, 0)
    policy = make_policy("prefix")
    first = policy(pool, Ask(chain=(1, 2), root=digest(b"opening")))
    roots = [digest(b"%d" % i) for i in range(9)]

    assert {policy(pool, Ask(chain=(1, 2), root=root)).name for root in roots} == {first.name}


def test_a_conversation_whose_new_place_has_too_much_goes_by_its_root_again():
    pool = replicas(0, 0, 0, 0)
    policy = make_policy("prefix")
    ask = Ask(chain=(1,), root=digest(b"opening"))
    home = policy(pool, ask)
    home.in_flight = 9
    away = policy(pool, ask._replace(chain=(1, 2)))
    home.in_flight, away.in_flight = 0, 9

    assert policy(pool, ask._replace(chain=(2, 3))) is home


def test_processes_that_did_not_see_the_turn_before_agree_by_the_root():
    pool = replicas(*[0] * 9)
    ask = Ask(chain=(1, 2), root=digest(b"opening"))

    assert len({make_policy("prefix")(pool, ask._replace(chain=(turn, turn + 1))).name for turn in range(9)}) == 1


def test_a_remembered_replica_that_is_gone_is_not_waited_for():
    pool = replicas(0, 0, 0, 0)
    policy = make_policy("prefix")
    first = policy(pool, Ask(chain=(1,), root=digest(b"opening")))
    rest = [replica for replica in pool if replica is not first]

    assert policy(rest, Ask(chain=(1, 2), root=digest(b"opening"))) in rest


def test_two_policies_share_no_memory():
    pool = replicas(*[0] * 9)
    one, other = make_policy("prefix"), make_policy("prefix")
    roots = [digest(b"%d" % i) for i in range(9)]
    one(pool, Ask(chain=(1,), root=roots[0]))

    assert len({other(pool, Ask(chain=(1, 2 + i), root=root)).name for i, root in enumerate(roots)}) > 1


@many
@given(most=st.integers(1, 40), prompts=st.lists(st.integers(0, 99), max_size=200))
def test_memory_is_bounded_and_keeps_what_is_newest(most, prompts):
    memory = PromptMemory(most)
    for prompt in prompts:
        memory.put(prompt, prompt + 1000)
        assert len(memory) <= max(2, most)

    for prompt in prompts[-max(1, most // 2) :]:
        assert memory.find((prompt,)) == prompt + 1000


def test_the_longest_known_prompt_counts():
    memory = PromptMemory()
    memory.put(1, 10)
    memory.put(2, 20)

    assert memory.find((1, 2)) == 20
    assert memory.find((1, 3)) == 10
    assert memory.find((3, 4)) is None
