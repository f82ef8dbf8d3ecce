"""devstral-proxy keys: what a person types, what scripts get, and the exit codes."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from proxy.access.commands import keys
from proxy.access.keys import KeyRing
from proxy.access.keys_file import read_entries
from proxy.config import ConfigError


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "keys.json")


def ring(path):
    return KeyRing(read_entries(path))


def now():
    return datetime.now(UTC).timestamp()


def test_add_prints_the_key_alone_and_the_file_knows_it(path, capsys):
    assert keys(["add", "alice", "--keys-file", path], {}) == 0

    out, err = capsys.readouterr()
    key = out.removesuffix("\n")
    assert re.fullmatch(r"dsp_[0-9a-f]{12}_[0-9a-f]{64}", key)
    assert err == f"devstral-proxy: alice is in {path}; this key is not shown again\n"
    assert ring(path).find(key, now()).name == "alice"


def test_a_key_has_the_tier_and_the_days_that_were_asked_for(path, capsys):
    keys(["add", "ci", "--tier", "batch", "--expires-days", "30", "--keys-file", path], {})

    [entry] = read_entries(path)
    assert entry.tier == "batch"
    assert entry.expires - entry.created == timedelta(days=30)
    key = capsys.readouterr().out.strip()
    assert ring(path).find(key, now()) == entry
    assert ring(path).find(key, now() + 31 * 86_400) is None


@pytest.mark.parametrize(("tier", "is_told"), [("ops", False), ("default", False), (None, False), ("opps", True)])
def test_a_tier_that_the_configuration_does_not_have_is_told(tier, is_told, path, tmp_path, capsys):
    config = tmp_path / "proxy.toml"
    config.write_text("[tiers.ops]\noperator = true\n")

    assert (
        keys(["add", "a", *(["--tier", tier] if tier else []), "--keys-file", path, "--config", str(config)], {}) == 0
    )
    assert (f"{config} has no tier opps" in capsys.readouterr().err) is is_told
    assert len(read_entries(path)) == 1


def test_a_name_is_given_once(path, capsys):
    keys(["add", "alice", "--keys-file", path], {})
    capsys.readouterr()

    assert keys(["add", "alice", "--keys-file", path], {}) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"devstral-proxy: there is a key called alice in {path}: revoke it first, or take another name\n"
    assert len(read_entries(path)) == 1


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_revoked_key_is_none_and_its_name_is_free(by, path, capsys):
    keys(["add", "alice", "--keys-file", path], {})
    keys(["add", "bob", "--keys-file", path], {})
    key = capsys.readouterr().out.split()[0]
    alice = read_entries(path)[0]

    assert keys(["revoke", getattr(alice, by), "--keys-file", path], {}) == 0
    assert capsys.readouterr().err == f"devstral-proxy: alice ({alice.id}) is revoked in {path}\n"
    assert ring(path).find(key, now()) is None
    assert [entry.name for entry in read_entries(path)] == ["bob"]
    assert keys(["add", "alice", "--keys-file", path], {}) == 0


def test_what_is_not_there_cannot_be_revoked(path, capsys):
    assert keys(["revoke", "nobody", "--keys-file", path], {}) == 1
    assert capsys.readouterr().err == f"devstral-proxy: no keys in {path} have this name or id\n"


def test_list_shows_whose_keys_there_are_and_nothing_to_guess_them_from(path, capsys):
    keys(["add", "alice", "--keys-file", path], {})
    keys(["add", "ci", "--tier", "batch", "--expires-days", "1", "--keys-file", path], {})
    added = capsys.readouterr().out.split()
    alice, ci = read_entries(path)

    assert keys(["list", "--keys-file", path], {}) == 0
    table = capsys.readouterr().out
    assert [line.split() for line in table.splitlines()] == [
        ["NAME", "ID", "TIER", "CREATED", "EXPIRES"],
        ["alice", alice.id, "default", stamp(alice.created), "never"],
        ["ci", ci.id, "batch", stamp(ci.created), stamp(ci.expires)],
    ]
    assert keys(["list", "--json", "--keys-file", path], {}) == 0
    text = capsys.readouterr().out
    assert [row["name"] for row in json.loads(text)] == ["alice", "ci"]
    for secret in (*(key.split("_")[2] for key in added), alice.hash, alice.salt):
        assert secret not in table + text


def stamp(time):
    return time.isoformat().replace("+00:00", "Z")


def test_list_of_no_file_is_an_empty_list(path, capsys):
    assert keys(["list", "--json", "--keys-file", path], {}) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_file_is_named_by_flag_variable_or_configuration_in_this_order(tmp_path):
    by_flag, by_variable, by_file = (str(tmp_path / name) for name in ("flag", "variable", "file"))
    config = tmp_path / "proxy.toml"
    config.write_text(f"keys_file = '{by_file}'\nport = 'not looked at'")
    environ = {"PROXY_KEYS_FILE": by_variable}

    keys(["add", "a", "--keys-file", by_flag, "--config", str(config)], environ)
    keys(["add", "b", "--config", str(config)], environ)
    keys(["add", "c", "--config", str(config)], {"PROXY_KEYS_FILE": ""})

    assert [[entry.name for entry in read_entries(path)] for path in (by_flag, by_variable, by_file)] == [
        ["a"],
        ["b"],
        ["c"],
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["remove"], "invalid choice"),
        (["add"], "NAME"),
        (["list"], "which file?"),
        (["add", "a b", "--keys-file", "k"], "up to 64 letters"),
        (["add", "0123456789ab", "--keys-file", "k"], "look like an id"),
        (["add", "a", "--tier", "x\ny", "--keys-file", "k"], "up to 64 letters"),
        *(
            (["add", "a", "--expires-days", days, "--keys-file", "k"], "from 1 to 36500")
            for days in ("0", "-1", "1.5", "never", "36501", "9" * 5000, "²")
        ),
        (["list", "--key", "k"], "unrecognized"),
        (["revoke", "--keys-file", "k"], "NAME_OR_ID"),
    ],
)
def test_wrong_usage_ends_with_2(arguments, says, capsys):
    with pytest.raises(SystemExit) as caught:
        keys(arguments, {})

    assert caught.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["add", "--help"], ["list", "--help"], ["revoke", "--help"]])
def test_help_ends_with_0(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        keys(arguments, {})

    assert caught.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_file_that_cannot_be_used_is_an_error_of_the_configuration(tmp_path):
    """`devstral-proxy` ends with 78 then, as it does for every ConfigError."""
    broken = tmp_path / "keys.json"
    broken.write_text("{")
    for command in (["add", "a"], ["list"], ["revoke", "a"]):
        with pytest.raises(ConfigError, match=r"keys\.json"):
            keys([*command, "--keys-file", str(broken)], {})
    with pytest.raises(ConfigError, match="cannot read"):
        keys(["list", "--config", str(tmp_path / "missing.toml")], {})
    with pytest.raises(ConfigError, match="is not a file of TOML"):
        keys(["list", "--config", str(broken)], {})
    broken.write_text("keys_file = 3")
    with pytest.raises(ConfigError, match="keys_file: expected a path"):
        keys(["list", "--config", str(broken)], {})
