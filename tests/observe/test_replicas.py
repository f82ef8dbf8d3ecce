"""What is counted of each replica: by several workers, while replicas come and go, in a fixed number of places."""

import os

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.observe.exposition import exposition
from proxy.observe.replicas import PLACES, ReplicaCounts

OPEN = 1


def told(counts):
    """Return a function from a metric's name and labels to its number; None if there is no such."""
    text = exposition(*counts.told()).decode()
    values = {
        (sample.name.removeprefix("devstral_proxy_replica_"), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return lambda name, **labels: values.get((name, *sorted(labels.items())))


def names(counts):
    """Return the replicas that are told of."""
    families, _ = counts.told()
    return list(families[0].labels["replica"])


@pytest.fixture
def few(monkeypatch):
    """Three places for replicas, and the last one for all others."""
    monkeypatch.setattr("proxy.observe.replicas.PLACES", 4)


def test_the_numbers_of_a_replica_are_the_sums_over_workers():
    counts = ReplicaCounts(2)
    for worker in range(2):
        counts.use(worker)
        tally = counts.tally("a")
        for _ in range(worker + 2):
            tally.began()
        tally.ended()
        tally.failed()
    tally.moved(OPEN)
    value = told(counts)

    assert [value(name, replica="a") for name in ("requests_total", "failures_total", "in_flight")] == [5, 2, 3]
    assert value("breaker_openings_total", replica="a") == 1
    assert [value("breaker", replica="a", state=state) for state in ("closed", "open", "half_open")] == [1, 1, 0]


def test_an_opening_is_counted_once_however_often_the_breaker_says_so():
    tally = (counts := ReplicaCounts(1)).tally("a")
    for state in (OPEN, OPEN, 2, OPEN, 0):
        tally.moved(state)

    assert told(counts)("breaker_openings_total", replica="a") == 2


def test_processes_that_were_forked_later_count_in_the_same_place():
    counts = ReplicaCounts(2)
    counts.tally("a").began()
    child = os.fork()
    if not child:
        counts.use(1)
        counts.tally("b").began()
        counts.tally("a").began()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    assert (told(counts)("requests_total", replica="a"), told(counts)("requests_total", replica="b")) == (2, 1)


def test_of_a_dead_worker_nothing_runs_and_what_it_counted_stays():
    counts = ReplicaCounts(2)
    for worker in range(2):
        counts.use(worker)
        counts.tally("a").began()
    counts.tally("only the dead one's").began()
    counts.forget(1)
    value = told(counts)

    assert (value("requests_total", replica="a"), value("in_flight", replica="a")) == (2, 1)
    assert value("breaker", replica="a", state="closed") == 1
    assert names(counts) == ["a"]


def test_its_successor_goes_on_in_the_same_place():
    counts = ReplicaCounts(1)
    counts.tally("a").began()
    counts.forget(0)
    counts.tally("a").began()

    assert (told(counts)("requests_total", replica="a"), told(counts)("in_flight", replica="a")) == (2, 1)


def test_a_replica_that_comes_back_goes_on_with_its_numbers():
    counts = ReplicaCounts(1)
    tally = counts.tally("a")
    tally.began()
    tally.ended()
    tally.moved(OPEN)
    tally.forget()
    assert names(counts) == []

    counts.tally("a").began()
    value = told(counts)
    assert value("requests_total", replica="a") == 2
    assert [value("breaker", replica="a", state=state) for state in ("closed", "open")] == [1, 0]


def test_a_replica_is_there_while_one_worker_has_it():
    counts = ReplicaCounts(2)
    first = counts.tally("a")
    counts.use(1)
    second = counts.tally("a")
    first.forget()
    assert names(counts) == ["a"]
    second.forget()
    assert names(counts) == []


@pytest.mark.usefixtures("few")
def test_a_place_is_given_on_with_zeros_when_nobody_has_its_replica():
    counts = ReplicaCounts(2)
    gone = counts.tally("a")
    counts.tally("b")
    gone.began()
    gone.ended()
    gone.forget()
    counts.tally("c").began()

    assert names(counts) == ["c", "b"]
    assert told(counts)("requests_total", replica="c") == 1


@pytest.mark.usefixtures("few")
def test_replicas_beyond_the_bound_share_one_label():
    counts = ReplicaCounts(1)
    for number in range(10):
        counts.tally(f"r{number}").began()

    assert names(counts) == ["r0", "r1", "r2", "other"]
    assert told(counts)("requests_total", replica="other") == 7


@pytest.mark.usefixtures("few")
def test_however_many_come_and_go_the_labels_are_bounded():
    counts = ReplicaCounts(1)
    for number in range(50):
        tally = counts.tally(f"r{number}")
        tally.began()
        tally.ended()
        tally.forget()
        assert len(names(counts)) == 0
    counts.tally("last")

    assert names(counts) == ["last"]


def test_the_bound_is_the_one_that_the_module_says():
    counts = ReplicaCounts(1)
    for number in range(PLACES + 20):
        counts.tally(f"r{number}")

    assert len(names(counts)) == PLACES
    assert names(counts)[-2:] == [f"r{PLACES - 2}", "other"]


@pytest.mark.parametrize("name", ["x" * 300, "ü" * 300, 'a"b\\c\nd', "\udcff"], ids=["long", "two bytes", "odd", "bad"])
def test_any_name_is_a_label(name):
    counts = ReplicaCounts(1)
    counts.tally(name).began()
    families = list(text_string_to_metric_families(exposition(*counts.told()).decode()))

    assert len(names(counts)) == 1
    assert len(families) == 5


def test_a_replica_with_new_settings_keeps_its_place_when_the_old_one_is_gone():
    counts = ReplicaCounts(1)
    old = counts.tally("a")
    old.began()
    counts.tally("a").began()
    old.ended()
    old.forget()

    assert names(counts) == ["a"]
    assert (told(counts)("requests_total", replica="a"), told(counts)("in_flight", replica="a")) == (2, 1)
