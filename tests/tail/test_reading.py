"""Lines out of files: from the end, at any place of a block's border, and without reading what is not asked for."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tail import reading
from proxy.tail.reading import LONGEST, Splitter, batches, end_of_lines, lines_backwards

BORDERS = [1, 2, 3, 7, 64]


@pytest.fixture
def opened(tmp_path):
    """Return a function from bytes to the descriptor of a file that holds them."""
    descriptors = []

    def open_with(content):
        path = tmp_path / "log"
        path.write_bytes(content)
        descriptors.append(os.open(path, os.O_RDONLY))
        return descriptors[-1]

    yield open_with
    for fd in descriptors:
        os.close(fd)


@pytest.mark.parametrize("block", BORDERS)
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [(0, b"")]),
        (b"a", [(0, b"a")]),
        (b"a\n", [(0, b"a")]),
        (b"\na", [(1, b"a"), (0, b"")]),
        (b"a\n\nbc\n", [(3, b"bc"), (2, b""), (0, b"a")]),
        (b"first\nsecond\nthird", [(13, b"third"), (6, b"second"), (0, b"first")]),
    ],
)
def test_lines_come_backwards_with_their_offsets(opened, monkeypatch, block, content, lines):
    monkeypatch.setattr(reading, "_BLOCK", block)

    assert list(lines_backwards(opened(content), len(content))) == lines


@given(content=st.binary(max_size=60).map(lambda data: data.replace(b"\0", b"\n")), block=st.integers(1, 9))
def test_backwards_is_forwards_turned_round(tmp_path_factory, content, block):
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK", block)
        backwards = list(lines_backwards(fd, len(content)))
        forwards = [line for lines in batches(fd) for line in lines]
    os.close(fd)

    assert [line for _, line in reversed(backwards)] == forwards
    assert all(content[offset:].startswith(line) for offset, line in backwards)


def test_the_last_lines_of_a_large_file_cost_one_block(opened, monkeypatch):
    fd = opened(b"x" * 99 + b"\n")
    os.truncate(fd_path(fd), 0)
    with open(fd_path(fd), "r+b") as file:  # a gigabyte of nothing, then lines
        file.seek(1024**3)
        file.write(b"\n" + b"line\n" * 20)
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: read.append(size) or pread(fd, size, offset))
    lines = lines_backwards(fd, os.fstat(fd).st_size)

    assert [next(lines)[1] for _ in range(10)] == [b"line"] * 10
    assert sum(read) <= 64 * 1024


def fd_path(fd):
    return os.readlink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("block", BORDERS)
@pytest.mark.parametrize(("content", "end"), [(b"", 0), (b"ab", 0), (b"ab\n", 3), (b"ab\ncd", 3), (b"\n\n", 2)])
def test_a_line_that_is_being_written_is_not_yet_one(opened, monkeypatch, block, content, end):
    monkeypatch.setattr(reading, "_BLOCK", block)

    assert end_of_lines(opened(content)) == end


@given(st.lists(st.binary(max_size=10)))
def test_in_whatever_pieces_bytes_come_the_lines_are_the_same(pieces):
    splitter = Splitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]

    assert [*lines, splitter.flush()] == b"".join(pieces).split(b"\n")


def test_a_line_without_end_comes_in_pieces(opened):
    fd = opened(b"x" * (3 * LONGEST))
    pieces = [line for lines in batches(fd) for line in lines]
    backwards = [line for _, line in lines_backwards(fd, 3 * LONGEST)]

    for found in (pieces, backwards):
        assert sum(map(len, found)) == 3 * LONGEST
        assert max(map(len, found)) <= LONGEST + 64 * 1024


def test_a_file_that_is_cut_while_it_is_read_backwards_ends(opened, monkeypatch):
    monkeypatch.setattr(reading, "_BLOCK", 4)
    fd = opened(b"one\ntwo\nthree\n")
    lines = lines_backwards(fd, 14)
    assert next(lines) == (8, b"three")
    os.truncate(fd_path(fd), 0)

    assert list(lines) == []
