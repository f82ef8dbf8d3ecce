"""Whether a store can be asked: one call at a time finds out, and changes are told once."""

from proxy.store.standing import PAUSE_S, Standing, Watch


class Clock:
    def __init__(self):
        self.now_s = 10.0
        self.told = []
        self.watch = Watch(lambda: self.now_s, lambda *change: self.told.append(change))


def test_while_it_is_down_all_calls_fail_and_then_one_tries():
    clock = Clock()
    clock.watch.failed("TimeoutError")

    assert [clock.watch.may_call() for _ in range(3)] == [False] * 3

    clock.now_s += PAUSE_S

    assert [clock.watch.may_call() for _ in range(3)] == [True, False, False]


def test_a_failed_attempt_begins_another_pause():
    clock = Clock()
    clock.watch.failed("TimeoutError")
    clock.now_s += PAUSE_S
    clock.watch.may_call()
    clock.watch.failed("ConnectionError")

    assert not clock.watch.may_call()
    assert clock.watch.standing is Standing.DOWN


def test_a_change_is_told_once_with_how_long_it_was_down():
    clock = Clock()
    for _ in range(3):
        clock.watch.failed("TimeoutError")
        clock.now_s += PAUSE_S
        assert clock.watch.may_call()
    clock.watch.worked()
    clock.watch.worked()

    assert clock.told == [(Standing.DOWN, "TimeoutError", 0.0), (Standing.UP, "", 3 * PAUSE_S)]


def test_an_answer_to_what_was_sent_before_the_failure_proves_nothing():
    clock = Clock()
    clock.watch.failed("TimeoutError")
    clock.watch.worked()

    assert clock.watch.standing is Standing.DOWN
