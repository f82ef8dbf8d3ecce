"""devstral-proxy doctor: what is examined, what a person and a program see, and the exit codes."""

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__
from proxy.cli import main
from proxy.config import ConfigError
from proxy.doctor.case import Case
from proxy.doctor.checks import CHECKS
from proxy.doctor.command import doctor
from proxy.doctor.outcome import Status, failed, ok, quoted, skipped, warning
from proxy.doctor.report import is_rich, lines_of, marks_for, summary
from proxy.printing import write_line
from tests.doctor.vllm import CHAT, Vllm, leaking, refusal

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"POOL_IDLE": "0.15"}


def run(*arguments, **environ):
    return asyncio.to_thread(doctor, list(arguments), QUICK | environ)


# --- what is examined


async def test_without_a_url_all_configured_upstreams_are_examined(capsys):
    async with Vllm() as first, Vllm({CHAT: refusal("no")}) as second:
        code = await run("--json", VLLM_BASE=f"{first.url},{second.url}/v1")

    data = json.loads(capsys.readouterr().out)
    assert code == 1
    assert [(server["url"], server["ok"]) for server in data["servers"]] == [(first.url, True), (second.url, False)]
    assert data["ok"] is False


async def test_settings_come_from_the_file_and_from_flags_as_they_do_for_serve(tmp_path, capsys):
    async with Vllm() as vllm:
        path = tmp_path / "proxy.toml"
        path.write_text(f"[[backends]]\nname = 'gpu1'\nurl = '{vllm.url}'\n")
        code = await run("--json", "--config", str(path), "--pool-idle-s", "0.2")

    [server] = json.loads(capsys.readouterr().out)["servers"]
    assert (code, server["server"]) == (0, "gpu1")
    assert any("keeps them 0.2 s" in check["says"] for check in server["checks"])


async def test_the_value_of_a_flag_is_not_taken_for_the_url(capsys):
    async with Vllm() as vllm:
        assert await run("--pool-idle-s", "0.2", vllm.url, "--json") == 0

    assert json.loads(capsys.readouterr().out)["servers"][0]["url"] == vllm.url


async def test_an_address_without_a_scheme_is_taken_for_http(capsys):
    async with Vllm() as vllm:
        assert await run(vllm.url.removeprefix("http://"), "--json") == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which server?"),
        (["http://127.0.0.1:1", "http://127.0.0.1:2"], "too many arguments"),
        (["http://127.0.0.1:1", "--timeout", "0"], "more than 0"),
        (["http://127.0.0.1:1", "--timeout", "nan"], "more than 0"),
        (["http://127.0.0.1:1", "--timeout", "soon"], "number of seconds"),
    ],
)
def test_wrong_usage_ends_with_2(arguments, says, capsys):
    with pytest.raises(SystemExit) as caught:
        doctor(arguments, {})

    assert caught.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ftp://127.0.0.1"], "URL: expected http://"),
        (["http://user:secret@127.0.0.1"], "must not hold a user name"),
        (["http://127.0.0.1:1", "--api-key-file", "/nonexistent"], "--api-key-file: cannot read"),
        (["https://127.0.0.1:1", "--ca-file", "/nonexistent"], "ca_file: cannot use"),
        (["http://127.0.0.1:1", "--tineout", "3"], "unknown flag --tineout"),
    ],
)
def test_what_cannot_be_used_is_an_error_of_the_configuration(arguments, says):
    with pytest.raises(ConfigError, match=says) as caught:
        doctor(arguments, {})

    assert "secret" not in str(caught.value)


def test_a_file_with_an_empty_key_is_refused(tmp_path):
    (tmp_path / "key").write_text("\n")
    with pytest.raises(ConfigError, match="the file is empty"):
        doctor(["http://127.0.0.1:1", "--api-key-file", str(tmp_path / "key")], {})


def test_help_has_examples_and_exit_codes(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--help"])

    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "examples:\n  devstral-proxy doctor http" in text
    assert "exit codes: 0 nothing failed, 1 something did" in text


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--version"])

    assert capsys.readouterr().out == f"devstral-proxy {__version__}\n"


# --- what is seen


async def test_plain_text_has_a_line_for_each_check_and_what_to_type(capsys):
    async with Vllm({CHAT: leaking}) as vllm:
        assert await run(vllm.url) == 0

    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"devstral-proxy doctor: {vllm.url}"
    assert " ✓ models               devstral; 131072 tokens of context" in lines
    parser = next(i for i, line in enumerate(lines) if line.startswith(" ! tool parser "))
    assert lines[parser + 1].strip() == "type: vllm serve … --enable-auto-tool-choice --tool-call-parser mistral"
    assert lines[-1] == "17 ok, 1 warning, 1 skipped: an agent can work"
    assert err == ""


def test_every_status_has_a_mark_in_ascii_too(monkeypatch):
    ascii_stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", ascii_stream)
    outcomes = [ok("a"), warning("b", "c"), failed("d"), skipped("e")]
    marks = marks_for(ascii_stream)
    for outcome in outcomes:
        for line in lines_of(CHECKS[0], outcome, marks):
            write_line(line)
    write_line("it's 18 °C")
    ascii_stream.seek(0)

    lines = ascii_stream.read().splitlines()
    assert [line[1] for line in lines if line[1] != " "] == ["+", "!", "x", "-", "t"]
    assert lines[-1] == "it's 18 \\xb0C"


def test_the_last_line_counts_and_says_what_it_means():
    results = [(CHECKS[0], ok("a")), (CHECKS[1], failed("b")), (CHECKS[2], skipped("c"))]

    assert summary(results) == "1 ok, 1 failed, 1 skipped: an agent will not work with this server"
    assert summary(results[:1]) == "1 ok: an agent can work"
    assert summary([(CHECKS[0], warning("a", "b"))] * 2) == "2 warnings: an agent can work"
    assert set(marks_for(sys.stdout)) == set(Status)


def test_a_terminal_without_rich_gets_plain_text(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    assert is_rich(terminal)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert not is_rich(terminal)


def test_texts_of_servers_are_cut_and_cannot_move_the_cursor():
    assert quoted("a\n  b\x1b[2J\u202e\x07") == "a b?[2J??"
    assert len(quoted("x" * 1000)) == 300


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
def test_a_check_needs_only_what_comes_before_it(name):
    names = [check.name for check in CHECKS]
    needs = CHECKS[names.index(name)].needs

    assert needs == "" or names.index(needs) < names.index(name)


def test_a_case_translates_before_anything_is_known():
    assert Case.__dataclass_fields__["profile"].default_factory().name == "auto"


async def test_a_terminal_gets_a_table_and_no_trace_of_the_spinner():
    """A real terminal, with the command as a process of its own."""
    async with Vllm({CHAT: leaking}) as vllm:
        text, code = await asyncio.to_thread(on_terminal, "doctor", vllm.url)

    assert code == 0
    assert "✓" in text
    assert "--tool-call-parser mistral" in text.replace("\r\n", " ")
    assert "an agent can work" in text


def on_terminal(*arguments: str) -> tuple[str, int]:
    ours, theirs = pty.openpty()
    environment = os.environ | QUICK | {"TERM": "xterm-256color", "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "proxy", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # how Linux says that the other side has closed
        pass
    finally:
        os.close(ours)
    return shown.decode(), process.wait(20)
