"""The log file after it was renamed: who writes where, and what is lost."""

import json
import os
import threading

import pytest

from proxy.config import Config
from proxy.observe.logs import Lines, configure_logs, reopen_log
from tests.conftest import libraries_restored


@pytest.fixture(autouse=True)
def _restored_library_loggers():
    with libraries_restored():
        yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "proxy.log"


def events(path):
    return [json.loads(line)["event"] for line in path.read_bytes().splitlines()]


def test_lines_go_to_the_renamed_file_until_it_is_reopened_and_to_a_new_one_then(path):
    logger = configure_logs(Config(log_file=str(path)))
    lines = Lines(logger)
    old = path.rename(path.with_suffix(".1"))
    logger.info("before")
    reopen_log(logger)
    logger.info("after")
    lines.write("info", "after_too", {})

    assert (events(old), events(path)) == (["before"], ["after", "after_too"])


def test_a_file_that_logrotate_has_created_is_appended_to_and_keeps_its_mode(path):
    logger = configure_logs(Config(log_file=str(path)))
    path.rename(path.with_suffix(".1"))
    path.write_bytes(b'{"event":"first"}\n')
    path.chmod(0o640)
    reopen_log(logger)
    logger.info("second")

    assert events(path) == ["first", "second"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_reopening_holds_no_more_files_than_before_and_gives_none_to_children(path):
    logger = configure_logs(Config(log_file=str(path)))
    reopen_log(logger)
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        reopen_log(logger)

    assert os.listdir("/proc/self/fd") == before
    [fd] = [int(name) for name in before if os.path.realpath(f"/proc/self/fd/{name}") == str(path)]
    assert not os.get_inheritable(fd)


def gone(path):
    path.parent.rename(path.parent.with_suffix(".gone"))
    return path.parent.with_suffix(".gone") / path.name


def a_directory(path):
    moved = path.rename(path.with_suffix(".1"))
    path.mkdir()
    return moved


def a_pipe_without_reader(path):
    moved = path.rename(path.with_suffix(".1"))
    os.mkfifo(path)
    return moved


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (gone, "No such file or directory"),
        (a_directory, "Is a directory"),
        (a_pipe_without_reader, "No such device or address"),
    ],
)
def test_a_file_that_cannot_be_reopened_leaves_the_old_one_which_says_so(tmp_path, capsys, trouble, reason):
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "proxy.log"
    logger = configure_logs(Config(log_file=str(path)))
    old = trouble(path)
    reopen_log(logger)
    logger.info("after")

    assert events(old) == ["log_reopen_failed", "after"]
    [line] = [json.loads(text) for text in old.read_text().splitlines()[:1]]
    assert (line["level"], line["pid"], line["error"]) == ("error", os.getpid(), reason)
    assert capsys.readouterr().err == (
        f"devstral-proxy: log_file: cannot reopen {path}: {reason}; the old file stays\n"
    )


def test_standard_output_stays_what_it_is(capfdbinary):
    logger = configure_logs(Config())
    reopen_log(logger)
    logger.info("after")

    assert json.loads(capfdbinary.readouterr().out)["event"] == "after"


def test_no_line_is_lost_or_torn_while_another_thread_writes(tmp_path, path):
    logger = configure_logs(Config(log_file=str(path)))
    has_rotated = threading.Event()
    written = []

    def write():
        while not has_rotated.is_set() or len(written) < 1000:
            logger.info("request", number=len(written))
            written.append(len(written))

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(20):
        path.rename(tmp_path / f"{number:02}")
        reopen_log(logger)
    has_rotated.set()
    writer.join()

    found = [
        json.loads(line)["number"] for file in sorted(tmp_path.iterdir()) for line in file.read_bytes().splitlines()
    ]
    assert found == written
