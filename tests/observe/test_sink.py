"""A log that nobody reads: it must not hold up who writes it, and what is lost is said."""

import json
import os
import socket
import threading

import pytest

from proxy.observe.sink import Sink

#: More than a pipe or a socket takes, and than may wait.
MANY = 40_000
LINE = b'{"event": "request", "number": %d, "text": "' + b"x" * 60 + b'"}\n'


def pipe():
    read, write = os.pipe()
    return read, write


def stream_sockets():
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.fixture(params=[pipe, stream_sockets])
def ends(request):
    """The reader's end, and a file number whose copy is a sink's standard output."""
    read, write = request.param()
    yield read, write
    os.close(read)


@pytest.fixture
def sink(ends, monkeypatch):
    monkeypatch.setattr("proxy.observe.sink._STDOUT", ends[1])
    made = Sink("")
    os.close(ends[1])
    return made


def write_all(sink, count):
    """Write so many lines within a deadline, or fail: a thread that waits for a reader cannot be ended otherwise."""
    writer = threading.Thread(target=lambda: [sink.write(LINE % number) for number in range(count)], daemon=True)
    writer.start()
    writer.join(30)
    return not writer.is_alive()


def read_until(read, enough):
    received = b""
    while not enough(received):
        received += os.read(read, 1 << 20)
    return [json.loads(line) for line in received.splitlines()]


def test_a_reader_that_stops_holds_up_nobody_and_what_is_dropped_is_counted(ends, sink):
    assert write_all(sink, MANY)

    lines = read_until(ends[0], lambda received: b"log_lines_dropped" in received and received.endswith(b"\n"))
    requests = [line["number"] for line in lines if line["event"] == "request"]
    [dropped] = [line for line in lines if line["event"] == "log_lines_dropped"]

    assert requests == list(range(len(requests)))
    assert 0 < dropped["lines"] == MANY - len(requests)


def test_a_reader_that_is_slow_gets_every_line_in_order(ends, sink):
    count = 8_000  # more than a pipe takes, and less than may wait
    assert write_all(sink, count)

    lines = read_until(ends[0], lambda received: received.count(b"\n") == count)

    assert [line["number"] for line in lines] == list(range(count))


def test_a_line_after_the_reader_has_caught_up_goes_out_at_once(ends, sink):
    assert write_all(sink, 8_000)
    read_until(ends[0], lambda received: received.count(b"\n") == 8_000)
    sink.finish(20)
    sink.write(LINE % 8_000)

    assert json.loads(os.read(ends[0], 1 << 20))["number"] == 8_000
    assert not [thread for thread in threading.enumerate() if thread.name == "log"]


# from Python 3.12 on: the threads are what this is about
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_process_that_was_forked_writes_its_own_lines_and_not_those_that_wait(ends, sink):
    assert write_all(sink, 8_000)
    pid = os.fork()
    if pid == 0:
        sink.write(b'{"event": "child"}\n')
        sink.finish(20)
        os._exit(0)

    def is_enough(received):
        return received.count(b"\n") == 8_001

    lines = read_until(ends[0], is_enough)
    os.waitpid(pid, 0)

    assert [line["number"] for line in lines if line["event"] == "request"] == list(range(8_000))
    assert sum(line["event"] == "child" for line in lines) == 1


def test_the_programs_that_share_standard_output_do_not_get_a_pipe_that_never_waits():
    read, write = os.pipe()
    shared = os.dup(write)
    kept = os.dup(1)
    try:
        os.dup2(write, 1)
        sink = Sink("")
    finally:
        os.dup2(kept, 1)

    assert os.get_blocking(shared)
    assert not os.get_blocking(sink.fileno())
    for number in (read, write, shared, kept):
        os.close(number)
