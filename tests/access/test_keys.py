"""API keys: their form, what is kept of them, and who is let in."""

import hmac
import json
import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access import keys
from proxy.access.keys import KeyRing, decode_entries, encode_entries, is_name, new_key

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
T = NOW.timestamp()


def made(name="ci", tier="", expires=None):
    return new_key(name, tier, NOW, expires)


def test_a_key_is_a_prefix_an_id_and_256_random_bits():
    key, entry = made()

    assert re.fullmatch(r"dsp_[0-9a-f]{12}_[0-9a-f]{64}", key)
    assert key.split("_")[1] == entry.id
    assert made()[0] != key


def test_of_a_secret_only_a_salted_hash_is_kept():
    key, entry = made()
    secret = key.split("_")[2]
    text = encode_entries([entry])

    assert entry.hash == sha256(bytes.fromhex(entry.salt) + secret.encode()).hexdigest()
    assert secret not in text
    assert sha256(secret.encode()).hexdigest() not in text
    assert made()[1].salt != entry.salt


def test_a_key_is_found_and_nothing_else_is():
    (key, entry), (other, other_entry) = made("a"), made("b")
    ring = KeyRing([entry, other_entry])
    id_, secret = key.split("_")[1:]

    assert ring.find(key, T) is entry
    assert ring.find(other, T) is other_entry
    for wrong in (
        *("", "dsp_", "dsp__", f"dsp_{id_}", f"dsp_{id_}_", f"dsp_{id_}_{secret[:-1]}", f"dsp_{id_}_{secret}0"),
        *(f"{id_}_{secret}", f"xxx_{id_}_{secret}"),
        *(f"dsp_{id_}_{secret.upper()}", f"dsp_{other_entry.id}_{secret}", f"dsp_{'0' * 12}_{secret}"),
        *(secret, entry.hash, f"dsp_{id_}_{entry.hash}", f"dsp_{id_}_\udcff", key + "\n", " " + key),
    ):
        assert ring.find(wrong, T) is None, wrong


@given(st.data())
def test_a_key_with_one_other_character_is_none(data):
    key, entry = made()
    at = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != key[at]))

    assert KeyRing([entry]).find(key[:at] + other + key[at + 1 :], T) is None


def test_an_expired_key_is_none_from_that_second_on():
    key, entry = made(expires=NOW + timedelta(days=1))
    ring = KeyRing([entry])

    assert ring.find(key, T + 86_399.9) is entry
    assert ring.find(key, T + 86_400) is None


@pytest.mark.parametrize("kind", ["known", "unknown id", "wrong secret", "expired", "no id"])
def test_every_key_costs_one_hash_and_one_comparison_in_constant_time(kind, monkeypatch):
    key, entry = made(expires=NOW)
    tokens = {
        "known": (key, T - 1),
        "unknown id": ("dsp_" + "0" * 12 + key[16:], T),
        "wrong secret": (key[:-1] + ("0" if key[-1] != "0" else "1"), T),
        "expired": (key, T),
        "no id": ("dsp_", T),
    }
    done = []
    compare, hash_ = hmac.compare_digest, sha256
    ring = KeyRing([entry])
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: done.append((len(a), len(b))) or compare(a, b))
    monkeypatch.setattr(keys, "sha256", lambda data: done.append("sha256") or hash_(data))

    found = ring.find(*tokens[kind])

    assert (found is entry) is (kind == "known")
    assert done == ["sha256", (32, 32)]


def test_what_is_written_can_be_read_again():
    entries = (made("a")[1], made("b", "gold", NOW + timedelta(hours=1))[1])

    assert decode_entries(encode_entries(entries)) == entries
    assert decode_entries(encode_entries([])) == ()


def changed(**fields):
    plain = json.loads(encode_entries([made()[1]]))
    plain["keys"][0] |= fields
    return json.dumps(plain)


def twice(**fields):
    plain = json.loads(encode_entries([made("a")[1], made("b")[1]]))
    for entry in plain["keys"]:
        entry |= fields
    return json.dumps(plain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"keys": []}',
        '{"version": 2, "keys": []}',
        '{"version": 1, "keys": [], "SECRET": 1}',
        '{"version": 1, "keys": [{"SECRET": "SECRET"}]}',
        "[" * 100_000,
        changed(name="SECRET\n"),
        changed(name=""),
        changed(id="SECRET"),
        changed(hash="SECRET"),
        changed(hash="0" * 63),
        changed(salt=""),
        changed(created="SECRET"),
        changed(created="2026-11-26T12:00:00"),
        changed(expires="never"),
        changed(SECRET=True),
        twice(id="0" * 12),
        twice(name="SECRET"),
    ],
)
def test_a_text_that_is_not_a_file_of_keys_is_refused_without_a_word_of_it(text):
    with pytest.raises(ValueError) as caught:
        decode_entries(text)

    assert "SECRET" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_file_of_keys_or_a_value_error(text):
    with pytest.raises(ValueError):
        decode_entries(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("a", "ci", "team-a.bot_1@example.com", "A" * 64)),
        *((name, False) for name in ("", "-a", ".a", "a b", "a\n", "ä", "a/b", "a:b", "A" * 65, 'a"b')),
    ],
)
def test_a_name_is_fit_for_logs_and_tables(name, expected):
    assert is_name(name) is expected
