"""What is remembered between requests: in bounded space, and what is in use stays."""

import pytest

from proxy.translate.memory import Memory

KIB = 1024


def memory(max_bytes=64 * KIB, max_key_bytes=8 * KIB):
    return Memory(len, max_bytes=max_bytes, max_key_bytes=max_key_bytes)


def key(number, size=8):
    return b"%0*d" % (size, number)


@pytest.mark.parametrize(("key_size", "value_size"), [(8, 0), (8, 4 * KIB), (4 * KIB, 0), (4 * KIB, 8 * KIB)])
def test_keys_and_values_together_stay_within_the_bound(key_size, value_size):
    kept = memory()
    for number in range(1000):
        kept.put(key(number, key_size), bytes(value_size))

    found = [number for number in range(1000) if key(number, key_size) in {**kept._young, **kept._old}]

    assert len(found) * (key_size + value_size) <= kept.held_bytes <= 64 * KIB
    assert found == list(range(1000))[-len(found) :]


def test_entries_of_nearly_nothing_are_bounded_in_number_too():
    kept = memory()
    for number in range(1000):
        kept.put(key(number), b"")

    assert 32 <= len(kept._young) + len(kept._old) <= 128


def test_what_is_asked_for_again_outlives_what_is_not():
    kept = memory()
    kept.put(b"used", b"value")
    kept.put(b"unused", b"value")
    for number in range(1000):
        kept.put(key(number), b"")
        assert kept.get(b"used") == b"value"

    assert kept.get(b"unused") is None


def test_a_hit_in_the_old_generation_survives_the_next_one():
    kept = memory()
    kept.put(b"used", b"value")
    while b"used" in kept._young:
        kept.put(key(len(kept._young)), b"")
    assert kept.get(b"used") == b"value"
    for number in range(100, 100 + 64):
        kept.put(key(number), b"")

    assert kept.get(b"used") == b"value"


@pytest.mark.parametrize(("long_key", "value"), [(bytes(8 * KIB + 1), b""), (b"key", bytes(32 * KIB))])
def test_what_is_too_long_is_not_remembered_and_pushes_nothing_out(long_key, value):
    kept = memory()
    kept.put(b"other", b"value")
    kept.put(long_key, value)

    assert kept.get(long_key) is None
    assert kept.get(b"other") == b"value"


def test_a_key_that_was_never_put_is_unknown():
    assert memory().get(b"key") is None
