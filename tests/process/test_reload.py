"""The settings again: when they are read, what is refused, and how they come to the workers."""

import asyncio
import resource
import socket

import msgspec
import pytest

from proxy.config import Config, ConfigError, load_config
from proxy.process.channel import Drain, Now, Reload, SupervisorEnd, Word, WorkerEnd
from proxy.process.limits import open_files_needed, raise_open_files
from proxy.process.reload import NEEDS_RESTART, Settings, Source
from proxy.process.serve import new_metrics
from proxy.process.swap import Swap
from tests.fakes import until


class Log:
    """Stands where the process's logger does; keeps what it is told."""

    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append((event, fields))

    error = info


def source_of(path):
    return Source(lambda read_file: load_config(["--config", str(path)], {}, read_file))


def settings_of(path):
    """Settings that were read from this file, and their log."""
    log, source = Log(), source_of(path)
    return Settings(source, source.read(), log, new_metrics()), log


# --- when


def test_a_file_has_changed_when_it_looks_twice_the_same_and_unlike_what_was_read(tmp_path):
    """Once is not enough: somebody may be writing it."""
    path = tmp_path / "proxy.toml"
    path.write_text("keep_alive_s = 1")
    source = source_of(path)
    source.read()
    assert [source.has_changed(), source.has_changed()] == [False, False]

    path.write_text("")
    assert source.has_changed() is False
    path.write_text("keep_alive_s = 25")
    assert [source.has_changed(), source.has_changed()] == [False, True]

    assert source.read().keep_alive_s == 25
    assert [source.has_changed(), source.has_changed()] == [False, False]


def test_a_file_that_cannot_be_used_is_read_again_only_when_it_has_changed_again(tmp_path):
    path, key = tmp_path / "proxy.toml", tmp_path / "key"
    key.write_text("k1")
    path.write_text(f"vllm_api_key_file = '{key}'")
    source = source_of(path)
    source.read()
    path.write_text("no TOML")
    with pytest.raises(ConfigError):
        source.read()
    assert [source.has_changed(), source.has_changed()] == [False, False]

    key.write_text("key 2")
    assert [source.has_changed(), source.has_changed()] == [False, True]
    with pytest.raises(ConfigError):
        source.read()
    assert [source.has_changed(), source.has_changed()] == [False, False]

    path.unlink()
    assert [source.has_changed(), source.has_changed()] == [False, True]


def test_settings_without_files_are_not_watched():
    source = Source(lambda _: Config())
    settings = Settings(source, source.read(), Log(), new_metrics())

    assert settings.look_every_s is None


@pytest.mark.parametrize(("text", "expected"), [("", 2), ("watch_config_s = 0.5", 0.5), ("watch_config_s = 0", None)])
def test_files_are_looked_at_as_often_as_the_settings_say(tmp_path, text, expected):
    path = tmp_path / "proxy.toml"
    path.write_text(text)

    assert settings_of(path)[0].look_every_s == expected


# --- what is refused


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        "port = " + "9" * 5000,
        "\0",
        "[models.m]\ntimeout_s = -1",
        "options = 1",
        "backends = [1]",
        "[options]\nparam_set = 1",
        "[options]\nbridge = 'sometimes'",
        "vllm_base = 'http://127.0.0.1:9000'",
        "profile = 'no-such-profile'",
    ],
)
def test_whatever_the_file_holds_the_old_settings_stay(tmp_path, text):
    path = tmp_path / "proxy.toml"
    path.write_text("keep_alive_s = 1")
    settings, log = settings_of(path)
    before = settings.config
    path.write_text(text)

    assert settings.reload() is None
    assert settings.config is before
    assert [event for event, _ in log.lines] == ["config_reload_failed"]


def test_what_needs_a_restart_is_a_setting():
    assert {field.name for field in msgspec.structs.fields(Config)} >= NEEDS_RESTART


# --- to the workers

CONFIG = Config(options={"param_drop": ("seed",), "param_set": {"n": 2**70, "x": [None, 1.5]}})


async def test_orders_come_in_one_piece_and_in_order_however_they_are_cut(tmp_path):
    ours, theirs = socket.socketpair()
    received = []
    WorkerEnd(theirs, Log()).listen(received.append)
    sent = [Reload(CONFIG), Drain(), Drain(at_once=True), Now()]
    a, b = socket.socketpair()
    end = SupervisorEnd(a)
    for order in sent:
        end.order(order)
    for byte in b.recv(65_536):
        ours.send(bytes((byte,)))
        await asyncio.sleep(0)
    await until(lambda: len(received) == len(sent))
    ours.close()
    await until(lambda: len(received) == len(sent) + 1)
    for each in (a, b, theirs):
        each.close()

    assert received == [*sent, Drain(at_once=True)]
    assert type(received[0].config.options["param_drop"]) is tuple


async def test_a_worker_that_does_not_read_holds_up_nobody_and_misses_nothing():
    ours, theirs = socket.socketpair()
    end = SupervisorEnd(ours)
    orders = [Reload(Config(options={"bridge_text": f"{i} " * 50_000})) for i in range(10)]
    for order in orders:
        end.order(order)
    assert end.has_unsent

    received = []
    WorkerEnd(theirs, Log()).listen(received.append)
    while end.has_unsent:
        end.flush()
        await asyncio.sleep(0)
    await until(lambda: len(received) == len(orders))
    ours.close()
    theirs.close()

    assert received == orders


def test_orders_to_a_dead_worker_are_forgotten():
    ours, theirs = socket.socketpair()
    theirs.close()
    end = SupervisorEnd(ours)
    end.order(Now())

    assert not end.has_unsent
    assert list(end.hear()) == [None]
    ours.close()


async def test_words_are_heard():
    ours, theirs = socket.socketpair()
    worker = WorkerEnd(theirs, Log())
    worker.say(Word.REFUSED, 0)
    worker.say(Word.READY, 9000)
    end = SupervisorEnd(ours)

    assert list(end.hear()) == [(Word.REFUSED, 0), (Word.READY, 9000)]
    assert list(end.hear()) == []
    ours.close()
    theirs.close()


# --- in a worker


async def test_of_the_settings_that_come_while_others_are_taken_only_the_newest_count():
    first = asyncio.Event()
    taken = []

    async def apply(config):
        await first.wait()
        taken.append(config.port)

    swap = Swap(Log(), lambda: None)
    swap.take(Config(port=1))
    swap.begin(apply)
    await asyncio.sleep(0)
    for port in (2, 3, 4):
        swap.take(Config(port=port))
    first.set()
    await until(lambda: taken == [1, 4])
    await swap.close()


@pytest.mark.parametrize("error", [ConfigError("bad"), ValueError("bad"), OSError("bad"), KeyError("a bug")])
async def test_a_worker_that_cannot_take_new_settings_says_so_and_takes_the_next(error):
    come = asyncio.Event()
    taken, refused, log = [], [], Log()

    async def apply(config):
        if config.port == 1:
            await come.wait()
            raise error
        taken.append(config.port)

    swap = Swap(log, lambda: refused.append(True))
    swap.begin(apply)
    swap.take(Config(port=1))
    await asyncio.sleep(0)
    swap.take(Config(port=2))
    come.set()
    await until(lambda: taken == [2])
    swap.take(Config(port=3))
    await until(lambda: taken == [2, 3])
    await swap.close()

    assert [event for event, _ in log.lines] == ["config_reload_failed"]
    assert refused == [True]


# --- the limits of the process


def test_the_limit_of_open_files_is_raised_as_far_as_may_be():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        limit = raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limit, before[1])
        assert limit == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_each_request_needs_two_files():
    assert open_files_needed(Config(max_in_flight=2001)) - open_files_needed(Config(max_in_flight=1)) == 4000


async def test_a_limit_that_is_too_low_is_in_the_startup_line(start_group):
    group = await start_group(2, VLLM_BASE="http://127.0.0.1:1", MAX_IN_FLIGHT="100000000")

    assert group.startup["open_files_needed"] > 2 * 100_000_000 > group.startup["open_files"]


async def test_a_limit_that_is_enough_is_not(start_group):
    group = await start_group(2, VLLM_BASE="http://127.0.0.1:1", MAX_IN_FLIGHT="10", MAX_QUEUE="0")

    assert "open_files" not in group.startup
