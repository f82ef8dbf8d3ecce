"""The command as a process: files, pipes, terminals, signals and exit codes."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from proxy.cli import main
from tests.tail.test_select import request

DEADLINE_S = 20
COMMAND = [sys.executable, "-m", "proxy", "tail"]


def line(number, **fields):
    return json.dumps(request(request_id=f"r-{number}", **fields), separators=(",", ":")) + "\n"


def lines(*numbers, **fields):
    return "".join(line(number, **fields) for number in numbers)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "proxy.log"


@pytest.fixture(autouse=True)
def _only_our_environment(monkeypatch):
    for name in ("LOG_FILE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments, text="", **environment):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=os.environ | environment,
    )


def ids(shown):
    return [int(number) for number in re.findall(r"id=r-(\d+)", shown)]


# --- how many, and which


def test_the_last_ten_lines_are_shown(path):
    path.write_text(lines(*range(30)))

    assert ids(run(path).stdout) == list(range(20, 30))


@pytest.mark.parametrize(("count", "shown"), [("0", []), ("3", [27, 28, 29]), ("100", list(range(30)))])
def test_as_many_lines_are_shown_as_asked_for(path, count, shown):
    path.write_text(lines(*range(30)))

    assert ids(run("-n", count, path).stdout) == shown


def test_the_last_lines_are_those_that_match(path):
    path.write_text(lines(1, 2, status=502) + lines(*range(3, 30)) + lines(30, status=503))

    assert ids(run("-n", "2", "--status", "5xx", path).stdout) == [2, 30]


def test_values_of_one_filter_are_alternatives_and_filters_hold_together(path):
    path.write_text(
        lines(1, model="a", status=429) + lines(2, model="b", status=502) + lines(3, model="a") + lines(4, model="c")
    )

    assert ids(run("--model", "a", "--model", "b", path).stdout) == [1, 2, 3]
    assert ids(run("--model", "a", "--model", "b", "--errors", path).stdout) == [1, 2]
    assert ids(run("--status", "429", "--status", "5xx", path).stdout) == [1, 2]


def test_since_shows_all_that_are_new_enough_and_does_not_stop_at_one_that_is_out_of_order(path):
    def at(number, time):
        return json.dumps(request(request_id=f"r-{number}") | {"timestamp": time}) + "\n"

    old = "".join(at(1, "2026-01-31T10:00:00Z") for _ in range(300))
    new = at(2, "2026-01-31T12:00:00Z") + at(3, "2026-01-31T11:59:59Z")
    path.write_text(old + new + "".join(at(number, "2026-01-31T12:00:01.5Z") for number in range(4, 30)))

    assert ids(run("--since", "2026-01-31T12:00:00Z", path).stdout) == [2, *range(4, 30)]
    assert ids(run("--since", "2026-01-31T12:00:00Z", "-n", "2", path).stdout) == [28, 29]
    assert ids(run("--since", "1s", path).stdout) == []


def test_json_passes_matching_lines_through_byte_for_byte(path):
    wanted = '{"event": "request",  "status":502, "model":"caf\\u00e9", "unknown": [1]}\n'
    path.write_text("some text\n" + line(1) + wanted + '{"no": "event"}\n')

    assert run("--json", "--status", "5xx", path).stdout == wanted
    assert run("--json", path).stdout == line(1) + wanted


def test_text_that_is_no_line_of_the_log_is_shown_as_it_is_unless_a_filter_asks_for_something(path):
    path.write_bytes(b"Traceback \x1b[31m\n[1]\n{broken\n" + line(1).encode() + b"no newline \xff")

    shown = subprocess.run([*COMMAND, str(path)], capture_output=True, timeout=DEADLINE_S, check=True).stdout
    assert shown.startswith(b"Traceback \x1b[31m\n[1]\n{broken\n01-31 12:00:00.500 200 ")
    assert shown.endswith(b"\nno newline \xff\n")
    assert len(run("--errors", "--status", "200", path).stdout) == 0


# --- where from


def test_standard_input_is_shown_from_its_start():
    assert ids(run("-", text=lines(*range(30))).stdout) == list(range(30))
    assert ids(run("-", "-n", "2", text=lines(*range(30))).stdout) == [28, 29]


def test_without_a_file_it_is_the_one_that_the_environment_names_or_standard_input(path):
    path.write_text(lines(1))

    assert ids(run(LOG_FILE=str(path), text=lines(2)).stdout) == [1]
    assert ids(run(text=lines(2)).stdout) == [2]


def test_a_pipe_with_a_name_is_read_as_it_comes(path):
    os.mkfifo(path)
    with started("-f", path) as process:
        with path.open("w") as writer:
            for number in (1, 2):
                writer.write(lines(number))
                writer.flush()
                assert ids(process.stdout.readline()) == [number]
        assert process.wait(DEADLINE_S) == 0


# --- following


@contextlib.contextmanager
def started(*arguments, **pipes):
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | pipes),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def add(path, text):
    with path.open("a") as file:
        file.write(text)


def test_it_follows_across_rotation_and_truncation(path):
    path.write_text(lines(1, 2, 3))
    with started("-f", "-n", "1", path) as process:

        def shown():
            return ids(process.stdout.readline())

        assert shown() == [3]
        add(path, lines(4))
        assert shown() == [4]
        old = path.rename(path.with_suffix(".1"))
        add(old, lines(5))
        assert shown() == [5]
        path.write_text(lines(6))
        assert shown() == [6]
        add(old, lines(7))
        assert shown() == [7]
        os.truncate(path, 0)
        add(path, lines(8))
        assert shown() == [8]
        process.send_signal(signal.SIGINT)

        assert process.wait(DEADLINE_S) == 130
        assert process.stdout.read() == process.stderr.read() == ""


def test_it_ends_when_nobody_reads_its_output_though_nothing_comes(path):
    path.write_text(lines(1))
    with started("-f", path) as process:
        process.stdout.readline()
        process.stdout.close()

        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == ""


def test_a_reader_that_has_had_enough_is_no_failure(path):
    path.write_text(lines(*range(20_000)))
    with started("-n", "20000", path) as process:
        process.stdout.readline()
        process.stdout.close()

        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == ""


def test_a_reader_that_was_never_there_is_no_failure_either(path):
    path.write_text(lines(1))
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, str(path)], stdout=writer, stderr=subprocess.PIPE, timeout=DEADLINE_S)
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, b"")


# --- a terminal


def on_a_terminal(path, *arguments, columns=80, **environment):
    """Return what the command writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [*COMMAND, *arguments, str(path)], stdout=theirs, stdin=theirs, env=variables | {"TERM": "xterm"} | environment
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + DEADLINE_S
    with contextlib.suppress(OSError):  # the other end was closed
        while select.select([ours], [], [], max(0, deadline - time.monotonic()))[0]:
            shown += os.read(ours, 65_536)
    os.close(ours)
    assert process.wait(DEADLINE_S) == 0
    return shown.decode()


def test_a_terminal_gets_titles_and_colours_and_lines_that_fit(path):
    path.write_text(lines(*range(3), model="m" * 100, replica="http://gpu-1:8000", rules=("a",) * 50))
    shown = on_a_terminal(path, columns=90).splitlines()

    assert "\x1b[32m200" in shown[1]
    plain = [re.sub(r"\x1b\[\d*m", "", text) for text in shown]
    assert plain[0].split()[:3] == ["TIME", "STATUS", "TOOK"]
    assert len(plain) == 4
    assert all(len(text) <= 90 for text in plain)


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})]
)
def test_a_terminal_gets_no_colours_if_it_wants_none(path, arguments, environment):
    path.write_text(lines(1))

    assert "\x1b" not in on_a_terminal(path, *arguments, **environment)


def test_what_is_no_terminal_gets_neither_titles_nor_colours(path):
    path.write_text(lines(1, status=502))
    shown = run(path, TERM="xterm-256color").stdout

    assert shown.startswith("01-31 12:00:00.500 502 ")
    assert "\x1b" not in shown


# --- how it ends


@pytest.mark.parametrize("name", ["absent.log", "."])
def test_a_file_that_cannot_be_read_is_a_failure(tmp_path, name):
    done = run(tmp_path / name)

    assert done.returncode == 1
    assert done.stderr.startswith(f"devstral-proxy: tail {tmp_path / name}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--status", "abc"],
        ["--slow", "soon"],
        ["--since", "then"],
        ["-n", "-1"],
        ["-n", "x"],
        ["--stat", "5xx"],
        ["a", "b"],
    ],
)
def test_wrong_usage_is_told_from_failure(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["tail", *arguments])

    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: devstral-proxy tail")


def test_without_a_file_at_a_terminal_it_asks_for_one():
    ours, theirs = pty.openpty()
    done = subprocess.run(COMMAND, stdin=theirs, capture_output=True, text=True, timeout=DEADLINE_S)
    os.close(ours)
    os.close(theirs)

    assert done.returncode == 2
    assert "which file?" in done.stderr


def test_help_has_examples_that_can_be_parsed(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["tail", "--help"])
    shown = capsys.readouterr().out

    assert caught.value.code == 0
    assert shown.count("devstral-proxy tail ") >= 7
