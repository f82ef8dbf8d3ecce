"""The file of keys: written whole, by one at a time, for its owner's eyes."""

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from proxy.access.keys import new_key
from proxy.access.keys_file import change_entries, read_entries
from proxy.config import ConfigError


def entry(name):
    return new_key(name, "", datetime.now(UTC), None)[1]


def added(name):
    return lambda entries: ((*entries, entry(name)), None)


def names(path):
    return [kept.name for kept in read_entries(str(path))]


def test_a_file_that_is_not_there_keeps_nothing_and_is_created(tmp_path):
    path = tmp_path / "keys.json"
    assert read_entries(str(path)) == ()

    change_entries(str(path), added("a"))
    change_entries(str(path), added("b"))

    assert names(path) == ["a", "b"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


def test_only_its_owner_may_read_it_whatever_the_umask_says(tmp_path):
    path = tmp_path / "keys.json"
    before = os.umask(0)
    try:
        change_entries(str(path), added("a"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        path.chmod(0o666)
        change_entries(str(path), added("b"))
    finally:
        os.umask(before)

    # the group may go on reading, everything else is taken away
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_file_stays_its_owners(tmp_path, monkeypatch):
    """Root adds a key, and the proxy, which runs as somebody else, must be able to read it."""
    path = tmp_path / "keys.json"
    change_entries(str(path), added("a"))
    given = []
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    monkeypatch.setattr(os, "fchown", lambda _, owner, group: given.append((owner, group)))

    change_entries(str(path), added("b"))

    assert given == [(path.stat().st_uid, path.stat().st_gid)]


def test_a_change_replaces_the_file_and_never_writes_into_it(tmp_path):
    path = tmp_path / "keys.json"
    change_entries(str(path), added("a"))
    with path.open() as before:
        text = before.read()
        change_entries(str(path), added("b"))
        before.seek(0)

        assert before.read() == text
    assert names(path) == ["a", "b"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    path, link = tmp_path / "real" / "keys.json", tmp_path / "keys.json"
    change_entries(str(path), added("a"))
    link.symlink_to(path)

    change_entries(str(link), added("b"))

    assert link.is_symlink()
    assert names(path) == ["a", "b"]


def test_a_change_that_fails_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "keys.json"
    change_entries(str(path), added("a"))

    def fails(entries):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        change_entries(str(path), fails)

    assert names(path) == ["a"]
    change_entries(str(path), added("b"))  # the lock was given back


def test_a_disk_that_is_full_leaves_everything_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "keys.json"
    change_entries(str(path), added("a"))

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match=r"cannot use .*keys\.json: No space left on device"):
            change_entries(str(path), added("b"))

    assert names(path) == ["a"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


ADD_MANY = """
import sys
from datetime import UTC, datetime
from proxy.access.keys import new_key
from proxy.access.keys_file import change_entries
for n in range(20):
    entry = new_key(f"{sys.argv[2]}-{n}", "", datetime.now(UTC), None)[1]
    change_entries(sys.argv[1], lambda entries: ((*entries, entry), None))
"""


def test_processes_that_add_keys_at_once_lose_none(tmp_path):
    path = tmp_path / "keys.json"
    adding = [subprocess.Popen([sys.executable, "-c", ADD_MANY, str(path), f"p{n}"]) for n in range(4)]

    assert [process.wait(timeout=60) for process in adding] == [0, 0, 0, 0]
    assert sorted(names(path)) == sorted(f"p{n}-{m}" for n in range(4) for m in range(20))


@pytest.mark.parametrize("content", [b"SECRET", b"\xff\xfeSECRET", b'{"version": 1, "keys": ["SECRET"]}'])
def test_a_file_of_something_else_is_named_and_neither_quoted_nor_replaced(content, tmp_path):
    path = tmp_path / "keys.json"
    path.write_bytes(content)

    for use in (read_entries, lambda path: change_entries(path, added("a"))):
        with pytest.raises(ConfigError) as caught:
            use(str(path))
        assert str(path) in str(caught.value)
        assert "SECRET" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_path_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot use .*missing/keys\.json: No such file or directory"):
        change_entries(str(tmp_path / "missing" / "keys.json"), added("a"))
    with pytest.raises(ConfigError, match="Is a directory"):
        read_entries(str(tmp_path))
    with pytest.raises(ConfigError, match="keys"):
        read_entries("keys\0.json")
