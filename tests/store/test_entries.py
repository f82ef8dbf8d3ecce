"""Where cached answers are: bounded, of limited life, and never an error."""

import asyncio
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.store.entries import PREFIX, Entry, MemoryEntries, SharedEntries, decode_entry, encode_entry
from proxy.store.standing import StoreDown
from tests.fakes import until

BODY = b'{"choices": []}'
ENTRY = Entry(BODY, ("think_tags_to_reasoning",), ("stop",), 1_700_000_000.5)
KEY = bytes(32)


def key(number):
    return number.to_bytes(32, "big")


def of_size(size):
    return msgspec.structs.replace(ENTRY, body=b"x" * size)


# --- in this process


async def test_what_was_put_is_there_until_its_time_is_over():
    entries = MemoryEntries(100_000)
    entries.put(KEY, ENTRY, 60)

    assert await entries.get(KEY) is ENTRY
    assert await entries.get(key(1)) is None
    entries.close()


async def test_what_is_over_is_not_found_even_before_it_is_dropped():
    entries = MemoryEntries(100_000)
    entries.put(KEY, ENTRY, 0)

    assert len(entries) == 1
    assert await entries.get(KEY) is None
    assert (len(entries), entries.held_bytes) == (0, 0)
    entries.close()


async def test_what_is_over_leaves_memory_without_being_asked_for():
    entries = MemoryEntries(100_000)
    entries.put(key(1), ENTRY, 0.02)
    entries.put(key(2), ENTRY, 0.04)
    entries.put(key(3), ENTRY, 60)

    await until(lambda: len(entries) == 1)

    assert await entries.get(key(3)) is ENTRY
    entries.close()


async def test_the_entry_that_was_not_asked_for_the_longest_goes_first():
    entries = MemoryEntries(8000)
    for number in (1, 2, 3):
        entries.put(key(number), of_size(1000), 60)
    assert await entries.get(key(1)) is not None

    entries.put(key(4), of_size(3000), 60)

    assert [n for n in range(5) if await entries.get(key(n)) is not None] == [1, 4]
    entries.close()


async def test_an_entry_that_is_put_again_takes_its_place_once():
    entries = MemoryEntries(100_000)
    entries.put(KEY, of_size(1000), 60)
    once = entries.held_bytes
    entries.put(KEY, of_size(1000), 60)

    assert (len(entries), entries.held_bytes) == (1, once)
    entries.close()


async def test_an_entry_over_the_bound_is_not_kept_and_costs_no_other_its_place():
    entries = MemoryEntries(5000)
    entries.put(key(1), of_size(1000), 60)
    entries.put(key(2), of_size(5000), 60)

    assert await entries.get(key(1)) is not None
    assert await entries.get(key(2)) is None
    entries.close()


async def test_after_close_nothing_is_held_and_no_timer_runs():
    entries = MemoryEntries(100_000)
    entries.put(KEY, ENTRY, 0.001)
    entries.close()
    await asyncio.sleep(0.01)

    assert (len(entries), entries.held_bytes) == (0, 0)
    assert await entries.get(KEY) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4000)), max_size=60))
@settings(max_examples=100, deadline=None)
def test_the_bound_holds_and_the_count_is_right_whatever_is_put(puts):
    async def fill():
        entries = MemoryEntries(10_000)
        for number, size in puts:
            entries.put(key(number), of_size(size), 60)

            assert entries.held_bytes <= 10_000
            assert entries.held_bytes == sum(held.size for held in entries._held.values())
            assert entries._held.keys() == entries._by_age.keys()
        entries.close()

    asyncio.run(fill())


@pytest.mark.parametrize("size", [100, 3000])
async def test_what_is_counted_is_no_less_than_what_is_taken(size):
    entries = MemoryEntries(8_000_000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1000):
        rules = tuple(bytes(rule, "ascii").decode() for rule in ("rule_one", "rule_two"))
        entries.put(key(number), Entry(b"x" * size + key(number), rules, ("stop",), number + 0.5), 60 + number)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert taken <= entries.held_bytes
    entries.close()


# --- in the shared store


class Store:
    """A link that a test can read and write, and that can be down."""

    def __init__(self):
        self.values = {}
        self.is_down = False

    async def get(self, key):
        if self.is_down:
            raise StoreDown("down")
        return self.values.get(key)

    def put(self, key, value, ttl_s):
        if not self.is_down:
            self.values[key] = value


async def test_the_store_gives_back_what_it_got():
    entries = SharedEntries(Store())
    entries.put(KEY, ENTRY, 60)

    assert await entries.get(KEY) == ENTRY
    assert await entries.get(key(1)) is None


async def test_names_in_the_store_tell_whose_they_are():
    store = Store()
    SharedEntries(store).put(key(255), ENTRY, 60)

    assert list(store.values) == [PREFIX + b"00" * 31 + b"ff"]


async def test_a_store_that_is_down_is_a_miss():
    store = Store()
    entries = SharedEntries(store)
    entries.put(KEY, ENTRY, 60)
    store.is_down = True

    assert await entries.get(KEY) is None
    entries.put(key(1), ENTRY, 60)


JUNK = {
    "nothing": b"",
    "text": b"hello",
    "another type": msgspec.msgpack.encode(5),
    "an object": msgspec.msgpack.encode({"body": BODY}),
    "too few fields": msgspec.msgpack.encode([BODY, []]),
    "too many fields": msgspec.msgpack.encode([BODY, [], [], 1.0, 5]),
    "fields of other types": msgspec.msgpack.encode([1, 2, 3, 4]),
    "a body that is no JSON": encode_entry(msgspec.structs.replace(ENTRY, body=b"{broken")),
    "a body that is no object": encode_entry(msgspec.structs.replace(ENTRY, body=b"[1]")),
    "a body that is no answer": encode_entry(msgspec.structs.replace(ENTRY, body=b'{"error": {}}')),
    "a choice that is none": encode_entry(msgspec.structs.replace(ENTRY, body=b'{"choices": [1]}')),
    "a choice without a message": encode_entry(msgspec.structs.replace(ENTRY, body=b'{"choices": [{}]}')),
    "calls that are none": encode_entry(
        msgspec.structs.replace(ENTRY, body=b'{"choices": [{"message": {"tool_calls": [1]}}]}')
    ),
    "a body that is not UTF-8": encode_entry(msgspec.structs.replace(ENTRY, body=b'{"choices": [], "a": "\xff"}')),
    "a body that is too deep": encode_entry(msgspec.structs.replace(ENTRY, body=b'{"choices":' + b"[" * 100_000)),
    "more behind it": encode_entry(ENTRY) + b"x",
    "a part": encode_entry(ENTRY)[:-1],
}


@pytest.mark.parametrize("name", JUNK)
async def test_junk_in_the_store_is_a_miss(name):
    store = Store()
    store.values[PREFIX + KEY.hex().encode()] = JUNK[name]

    assert await SharedEntries(store).get(KEY) is None


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_entry_or_a_miss(data):
    assert decode_entry(data) is None
