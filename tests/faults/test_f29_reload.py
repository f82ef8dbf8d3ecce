"""F29: new settings without a restart. They take effect as a whole or not at all, and streams do not notice."""

import asyncio
import json
import os
import signal

import aiohttp
import pytest

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, completion, event, text_chunk, whole
from tests.process.conftest import DEADLINE_S, counted, running, until

BEGIN = [STREAM_HEAD, event(text_chunk("a"))]
END = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]
ANSWER = [whole(completion())]

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="asks Linux which process has a connection")


def settings(temperature, *more, **top):
    """A configuration by which requests without a temperature get this one."""
    lines = [*(f"{key} = {value}" for key, value in top.items()), "[options]", f"default_temperature = {temperature}"]
    return "\n".join([*lines, *more])


def body(*, stream=False):
    return {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}


async def sent_temperature(group, upstream):
    """Ask on a new connection; return which worker answered, and the temperature that it sent upstream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"}")
    port = writer.get_extra_info("sockname")[1]
    worker = group.worker_at(port) if group.workers() else group.process.pid
    question = json.dumps(body(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(question)}\r\n\r\n"
    writer.write(head.encode() + question)
    await reader.readuntil(b"[DONE]\n\n")
    writer.close()
    return worker, upstream.requests[-1].json.get("temperature")


async def until_all_send(group, upstream, temperature):
    """Return when every worker sends it."""
    workers = group.workers() or {group.process.pid}
    sent = {}
    async with asyncio.timeout(DEADLINE_S):
        while sent.keys() != workers or set(sent.values()) != {temperature}:
            worker, sent_now = await sent_temperature(group, upstream)
            sent[worker] = sent_now


def replace(path, text):
    """Put a whole file in the place of another, as an editor does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


STREAMED = [*BEGIN, *END]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", ["SIGHUP", "SIGHUP to the group", "file watch"])
async def test_new_settings_are_in_effect_in_every_worker(tmp_path, workers, how):
    file = tmp_path / "proxy.toml"
    file.write_text(settings(0.25))
    watch = "0.05" if how == "file watch" else "0"
    async with (
        ScriptedUpstream(STREAMED) as upstream,
        running(workers, "--config", str(file), VLLM_BASE=upstream.url, WATCH_CONFIG=watch) as group,
    ):
        await until_all_send(group, upstream, 0.25)
        replace(file, settings(0.75, keep_alive_s=7))
        if how == "SIGHUP":
            group.send(signal.SIGHUP)
        elif how == "SIGHUP to the group":
            group.send_all(signal.SIGHUP)
        line = await group.log_line("config_reloaded")
        await until_all_send(group, upstream, 0.75)

        assert (line["changed"], line["needs_restart"]) == (["keep_alive_s", "options"], [])
        assert await counted(group, "config_reloads_total") == 1
        assert await counted(group, "config_reload_failures_total") == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_running_stream_does_not_notice(tmp_path, workers):
    reloaded = asyncio.Event()
    file = tmp_path / "proxy.toml"
    file.write_text(settings(0.25))
    async with (
        ScriptedUpstream([*BEGIN, reloaded, *END], STREAMED) as upstream,
        running(workers, "--config", str(file), VLLM_BASE=upstream.url) as group,
        aiohttp.ClientSession() as session,
        session.post(f"{group.url}/v1/chat/completions", json=body(stream=True)) as response,
    ):
        replace(file, settings(0.75, max_event_bytes=1024))
        group.send(signal.SIGHUP)
        await until_all_send(group, upstream, 0.75)
        reloaded.set()
        stream = await response.read()

    assert b'"b"' in stream
    assert stream.endswith(b"data: [DONE]\n\n")
    assert b'"error"' not in stream


BAD = {
    "no TOML": "[options",
    "unknown key": "no_such_key = 1",
    "value that does not fit": 'keep_alive_s = "soon"',
    "option that only the rules refuse": "[options]\nparam_drop = ['messages']",
    "certificates that are not there": "[[backends]]\nurl = 'https://127.0.0.1:1'\nca_file = '/absent.pem'",
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("what", BAD)
async def test_a_bad_file_keeps_the_old_settings_and_is_counted(tmp_path, workers, what):
    file = tmp_path / "proxy.toml"
    top = {} if "certificates" in what else {"vllm_base": "'{url}'"}
    async with ScriptedUpstream(STREAMED) as upstream:
        file.write_text(settings(0.25, vllm_base=f"'{upstream.url}'"))
        async with running(workers, "--config", str(file), WATCH_CONFIG="0") as group:
            lines = [f"{key} = {value.format(url=upstream.url)}" for key, value in top.items()]
            replace(file, "\n".join([*lines, BAD[what]]))
            group.send(signal.SIGHUP)
            line = await group.log_line("config_reload_failed")
            await until_all_send(group, upstream, 0.25)

            assert line["level"] == "error"
            assert line["error"]
            assert await counted(group, "config_reload_failures_total") == 1
            assert await counted(group, "config_reloads_total") == 0

            replace(file, settings(0.75, vllm_base=f"'{upstream.url}'"))
            group.send(signal.SIGHUP)
            await until_all_send(group, upstream, 0.75)


async def test_a_bad_file_is_complained_about_once_and_a_mended_one_is_taken(tmp_path):
    file = tmp_path / "proxy.toml"
    file.write_text(settings(0.25))
    async with (
        ScriptedUpstream(STREAMED) as upstream,
        running(2, "--config", str(file), VLLM_BASE=upstream.url, WATCH_CONFIG="0.05") as group,
    ):
        file.unlink()
        await group.log_line("config_reload_failed")
        await asyncio.sleep(0.5)  # ten looks
        assert await counted(group, "config_reload_failures_total") == 1
        file.write_text(settings(0.75))
        await group.log_line("config_reloaded")
        await until_all_send(group, upstream, 0.75)


async def test_a_config_map_is_followed_through_its_links(tmp_path):
    """Kubernetes: the file links into `..data`, and `..data` is swapped from one folder to another."""
    for name, temperature in (("v1", 0.25), ("v2", 0.75)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "proxy.toml").write_text(settings(temperature))
    (tmp_path / "..data").symlink_to("v1")
    file = tmp_path / "proxy.toml"
    file.symlink_to("..data/proxy.toml")
    async with (
        ScriptedUpstream(STREAMED) as upstream,
        running(2, "--config", str(file), VLLM_BASE=upstream.url, WATCH_CONFIG="0.05") as group,
    ):
        (tmp_path / "..data_tmp").symlink_to("v2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await group.log_line("config_reloaded")
        await until_all_send(group, upstream, 0.75)


async def test_a_worker_that_is_started_later_has_the_new_settings(tmp_path):
    file = tmp_path / "proxy.toml"
    file.write_text(settings(0.25))
    async with (
        ScriptedUpstream(STREAMED) as upstream,
        running(2, "--config", str(file), VLLM_BASE=upstream.url) as group,
    ):
        replace(file, settings(0.75))
        group.send(signal.SIGHUP)
        await group.log_line("config_reloaded")
        before = group.workers()
        os.kill(min(before), signal.SIGKILL)
        await until(lambda: len(group.workers() - before) == 1)
        await until_all_send(group, upstream, 0.75)


async def test_a_worker_that_is_stuck_does_not_hold_up_the_others_and_gets_the_newest_when_it_goes_on(tmp_path):
    """More settings than the channel to it holds: its supervisor has to keep the rest."""
    file = tmp_path / "proxy.toml"
    file.write_text(settings(0.25))
    async with (
        ScriptedUpstream(STREAMED) as upstream,
        running(2, "--config", str(file), VLLM_BASE=upstream.url, WATCH_CONFIG="0") as group,
    ):
        stuck = min(group.workers())
        os.kill(stuck, signal.SIGSTOP)
        for temperature in (0.25, 0.5, 0.75):
            replace(file, settings(temperature, f"continue_text = '{'x' * 200_000}'"))
            group.send(signal.SIGHUP)
            await group.log_line("config_reloaded")
        os.kill(stuck, signal.SIGCONT)
        await until_all_send(group, upstream, 0.75)


async def test_what_needs_a_restart_is_named_and_stays(tmp_path):
    file = tmp_path / "proxy.toml"
    file.write_text(settings(0.25))
    async with (
        ScriptedUpstream(STREAMED) as upstream,
        running(2, "--config", str(file), VLLM_BASE=upstream.url) as group,
    ):
        replace(file, settings(0.75, log_level="'debug'", host="'127.0.0.2'", keep_alive_s=7))
        for _ in range(2):  # the same again: they still wait for a restart
            group.send(signal.SIGHUP)
            line = await group.log_line("config_reloaded")
            assert line["needs_restart"] == ["host", "log_level"]
        assert line["changed"] == []
        await until_all_send(group, upstream, 0.75)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_key_is_taken_from_its_new_file_and_shown_nowhere(tmp_path, workers):
    old, new = "sk-canary-7f3a91", "sk-canary-c0ffee"
    key = tmp_path / "key"
    key.write_text(old)
    async with (
        ScriptedUpstream(ANSWER) as upstream,
        running(workers, "--vllm-api-key-file", str(key), VLLM_BASE=upstream.url, WATCH_CONFIG="0.05") as group,
        aiohttp.ClientSession() as session,
    ):
        replace(key, new)
        line = await group.log_line("config_reloaded")
        async with asyncio.timeout(DEADLINE_S):
            while not upstream.requests or upstream.requests[-1].header("authorization") != f"Bearer {new}":
                async with session.post(f"{group.url}/v1/chat/completions", json=body()) as response:
                    assert response.status == 200
        group.send(signal.SIGTERM)
        log, message = await group.process.communicate()

    assert line["changed"] == ["vllm_api_key"]
    assert b"canary" not in log + message


async def test_a_demo_stays_a_demo(tmp_path):
    """Without an upstream there is one of the proxy's own, which new settings do not replace."""
    file = tmp_path / "proxy.toml"
    file.write_text(settings(0.25))
    async with running(1, "--config", str(file)) as group, aiohttp.ClientSession() as session:
        replace(file, settings(0.75))
        group.send(signal.SIGHUP)
        await group.log_line("config_reloaded")
        async with session.get(f"{group.url}/v1/models") as response:
            assert response.status == 200
