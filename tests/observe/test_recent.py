"""The last requests: which are kept, how many, and in which order."""

from proxy.edge.record import Record
from proxy.observe.recent import Recent


def record(number, path="/v1/chat/completions", error=None):
    return Record(request_id=f"r{number}", client_ip=None, method="POST", path=path, error=error)


def ids(kept):
    return [ended.record.request_id for ended in kept]


def test_requests_to_the_api_are_kept_and_looks_at_health_are_not():
    recent = Recent()
    for number, path in enumerate(("/v1/chat/completions", "/livez", "/metrics", "/v1/models")):
        recent.add(record(number, path))

    assert ids(recent.requests) == ["r3", "r0"]
    assert ids(recent.errors) == []


def test_an_error_is_kept_whatever_its_path_and_outlives_the_requests_after_it():
    recent = Recent()
    recent.add(record(0, "/nowhere", "not_found"))
    recent.add(record(1, error="upstream_timeout"))
    for number in range(2, 500):
        recent.add(record(number))

    assert ids(recent.errors) == ["r1", "r0"]
    assert (ids(recent.requests)[0], len(recent.requests)) == ("r499", 50)
    for number in range(500, 1000):
        recent.add(record(number, error=400))
    assert (ids(recent.errors)[0], len(recent.errors)) == ("r999", 20)


def test_each_has_a_number_of_its_own_in_both_lists():
    recent = Recent()
    for number in range(3):
        recent.add(record(number, error="overloaded"))

    assert [ended.number for ended in recent.requests] == [ended.number for ended in recent.errors] == [3, 2, 1]
