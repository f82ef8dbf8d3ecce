"""Following a name while the file behind it is renamed, cut, deleted and made anew."""

import os

import pytest

from proxy.tail import following
from proxy.tail.following import Follower


@pytest.fixture
def path(tmp_path):
    return tmp_path / "proxy.log"


@pytest.fixture
def follow(path):
    """Return a function that begins to follow the file from its start."""
    followers = []

    def begin():
        followers.append(Follower(str(path), os.open(path, os.O_RDONLY), 0))
        return followers[-1]

    yield begin
    for each in followers:
        each.close()


def add(path, text):
    with path.open("ab") as file:
        file.write(text)


def test_lines_come_once_and_whole(path, follow):
    add(path, b"one\ntwo\nth")
    follower = follow()
    assert follower.poll() == [b"one", b"two"]
    assert follower.poll() == []
    add(path, b"ree\n")
    assert follower.poll() == [b"three"]


def test_after_a_rename_the_old_file_is_read_to_its_end_and_the_new_one_from_its_start(path, follow):
    add(path, b"one\n")
    follower = follow()
    follower.poll()
    add(path, b"two\n")
    old = path.rename(path.with_suffix(".1"))
    add(path, b"three\n")
    assert follower.poll() == [b"two", b"three"]

    add(old, b"from a worker that has not reopened yet\n")
    add(path, b"four\n")
    assert follower.poll() == [b"from a worker that has not reopened yet", b"four"]


def test_while_no_file_has_the_name_the_old_one_is_followed(path, follow):
    add(path, b"one\n")
    follower = follow()
    old = path.rename(path.with_suffix(".1"))
    assert follower.poll() == [b"one"]
    add(old, b"two\n")
    assert follower.poll() == [b"two"]
    add(path, b"three\n")
    assert follower.poll() == [b"three"]


def test_a_deleted_file_that_is_made_anew_is_another_one(path, follow):
    add(path, b"one\n")
    follower = follow()
    follower.poll()
    path.unlink()
    add(path, b"two\n")

    assert follower.poll() == [b"two"]


def test_several_rotations_between_two_looks_lose_only_what_no_name_leads_to(path, follow):
    add(path, b"one\n")
    follower = follow()
    follower.poll()
    for number, text in enumerate((b"two\n", b"three\n")):
        path.rename(path.with_suffix(f".{number}"))
        add(path, text)

    assert follower.poll() == [b"three"]


@pytest.mark.parametrize("longer", [b"", b" and is longer than before"], ids=["shorter", "longer"])
def test_a_file_that_was_cut_is_read_from_its_start(path, follow, longer):
    """logrotate's copytruncate. One that has grown past the old place by the next look begins with something else."""
    add(path, b"one\ntwo\nhalf a li")
    follower = follow()
    follower.poll()
    os.truncate(path, 0)
    add(path, b"new" + longer + b"\n")

    assert follower.poll() == [b"new" + longer]


def test_a_file_that_was_empty_has_grown_and_not_changed(path, follow):
    path.touch()
    follower = follow()
    found = []
    for text in (b"a", b"b\n", b"c" * 200 + b"\n", b"d\n"):
        add(path, text)
        found += follower.poll()

    assert found == [b"ab", b"c" * 200, b"d"]


def test_old_files_are_let_go_when_they_have_been_quiet(path, follow, monkeypatch):
    monkeypatch.setattr(following, "QUIET_S", -1.0)
    add(path, b"one\n")
    follower = follow()
    follower.poll()
    old = path.rename(path.with_suffix(".1"))
    add(old, b"without a newline")
    add(path, b"two\n")
    open_before = len(os.listdir("/proc/self/fd"))
    assert follower.poll() == [b"two"]
    assert follower.poll() == [b"without a newline"]

    assert len(os.listdir("/proc/self/fd")) == open_before
    assert follower.poll() == []


def test_much_at_once_comes_in_portions(path, follow, monkeypatch):
    monkeypatch.setattr(following, "_MOST", 1000)
    monkeypatch.setattr(following, "_BLOCK", 100)
    lines = [b"%06d" % number for number in range(1000)]
    add(path, b"\n".join(lines) + b"\n")
    follower = follow()
    portions = []
    while found := follower.poll():
        portions.append(found)

    assert [line for portion in portions for line in portion] == lines
    assert max(map(len, portions)) < 200
