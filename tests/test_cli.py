"""The command line: which command runs, and how the process ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from proxy import __version__
from proxy.cli import COMMANDS, WITH_ARGUMENTS, ExitCode, main
from proxy.config import SETTINGS

SECRET = "sk-canary-7f3a91"
DEADLINE_S = 20


@pytest.fixture(autouse=True)
def _only_our_environment(monkeypatch):
    for row in SETTINGS.values():
        for name in row.variables:
            monkeypatch.delenv(name, raising=False)


def left_by_exit(*argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return caught.value.code


@pytest.mark.parametrize("argv", [["--version"], ["serve", "--version"]])
def test_version_is_printed(argv, capsys):
    assert left_by_exit(*argv) == ExitCode.CLEAN
    assert capsys.readouterr().out == f"devstral-proxy {__version__}\n"


# --- what every command says of itself


#: The words of each command, and what it is given to end with each code but 0 and those that need a server.
EVERY = {
    "": {2: ["--port"], 78: ["--port", "70000"]},
    "serve": {2: ["serve", SECRET], 78: ["serve", "--port", "70000"]},
    "demo": {2: ["demo", SECRET], 78: ["demo", "--no-such-flag"]},
    "check-config": {2: ["check-config", "--port"], 78: ["check-config", "--config", "/nonexistent.toml"]},
    "print-config": {2: ["print-config", "--port"], 78: ["print-config", "--config", "/nonexistent.toml"]},
    "keys": {2: ["keys"], 1: ["keys", "revoke", "a", "--keys-file", "{file}"]},
    "keys add": {2: ["keys", "add"], 78: ["keys", "add", "a", "--config", "/nonexistent.toml"]},
    "keys list": {2: ["keys", "list", "--no-such-flag"], 78: ["keys", "list", "--config", "/nonexistent.toml"]},
    "keys revoke": {2: ["keys", "revoke"], 1: ["keys", "revoke", "a", "--keys-file", "{file}"]},
    "tail": {2: ["tail", "--status", "x"], 1: ["tail", "/nonexistent.log"]},
    "doctor": {
        2: ["doctor", "--timeout", "x"],
        1: ["doctor", "http://127.0.0.1:1"],
        78: ["doctor", "--config", "/nonexistent.toml"],
    },
    "explain": {
        2: ["explain", "/nonexistent.json"],
        1: ["explain", "{file}"],
        78: ["explain", "{file}", "--config", "/nonexistent.toml"],
    },
    "healthcheck": {
        2: ["healthcheck", "--live", "--ready"],
        1: ["healthcheck", "http://127.0.0.1:1"],
        78: ["healthcheck", "--config", "/nonexistent.toml"],
    },
    "completion": {2: ["completion", "tcsh"]},
}
#: What is seen elsewhere: it takes a server, a signal, or a missing package.
ELSEWHERE = {1: {"", "serve", "demo", "completion", "keys add"}, 78: {"keys", "keys revoke"}}


def said(capsys, *argv):
    """Run, and return the exit code and standard output."""
    try:
        code = main(argv)
    except SystemExit as exc:
        code = exc.code
    return code, capsys.readouterr().out


def test_every_command_is_looked_at():
    assert {words.split()[0] for words in EVERY if words} == {*COMMANDS, *WITH_ARGUMENTS}


@pytest.mark.parametrize("words", EVERY)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_says_what_it_is_for_how_to_use_it_and_how_it_ends(words, flag, capsys):
    code, text = said(capsys, *words.split(), flag)
    usage, about, *_ = text.split("\n\n")
    codes = " ".join(text.partition("\nexit codes: ")[2].split())
    [examples] = re.findall(r"^examples:\n((?:  .+\n)+)", text, re.MULTILINE)

    assert code == ExitCode.CLEAN
    assert usage.startswith(f"usage: devstral-proxy{' ' * bool(words)}{words}")
    assert re.match(r"[A-Z][^\n]+\w[.:]", about)
    assert "options:\n  -h, --help" in text
    assert "  --version " in text
    assert all(line.strip() for line in examples.splitlines())
    assert f"devstral-proxy {words}".strip() in examples
    told = {int(number) for number in re.findall(r"(?:^|, )(\d+) ", codes)}
    shown = {0, *EVERY[words], *(number for number, commands in ELSEWHERE.items() if words in commands)}
    assert told - {69, 130} == shown
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("words", EVERY)
def test_every_command_tells_the_version(words, capsys):
    assert said(capsys, *words.split(), "--version") == (0, f"devstral-proxy {__version__}\n")


@pytest.mark.parametrize(
    ("argv", "code"), [(argv, code) for ends in EVERY.values() for code, argv in ends.items()], ids=str
)
def test_every_command_ends_with_the_code_that_it_tells(argv, code, tmp_path, capsys):
    file = tmp_path / "keys.json"
    if argv[0] == "keys":
        assert main(["keys", "add", "b", "--keys-file", str(file)]) == 0
    else:
        file.write_text("no request")

    assert said(capsys, *(word.replace("{file}", str(file)) for word in argv))[0] == code


# --- the command line as a whole


def test_help_names_every_command_flag_and_variable(capsys):
    assert left_by_exit("--help") == ExitCode.CLEAN
    words = set(capsys.readouterr().out.replace("[", " ").replace("]", " ").replace(";", " ").split())

    assert words >= set(COMMANDS)
    for row in SETTINGS.values():
        assert words >= {row.flag, *row.variables}


@pytest.mark.parametrize(
    "argv", [["no-such-command"], ["serve", SECRET], ["--port", "1", "serve"], ["--port"], ["--config"]]
)
def test_a_command_line_that_cannot_be_read_ends_with_usage(argv, capsys):
    assert left_by_exit(*argv) == ExitCode.USAGE
    errors = capsys.readouterr().err
    assert errors.startswith("usage: devstral-proxy [COMMAND] [FLAGS]\n")
    assert SECRET not in errors


@pytest.mark.parametrize(
    ("word", "meant"), [("dcotor", "doctor"), ("check_config", "check-config"), ("server", "serve")]
)
def test_a_command_that_is_misspelt_gets_the_nearest_one(word, meant, capsys):
    assert left_by_exit(word) == ExitCode.USAGE
    assert capsys.readouterr().err.endswith(f"; did you mean {meant}?\n")


@pytest.mark.parametrize("argv", [["doctor", "http://a", SECRET], ["healthcheck", "--ready", "http://a", SECRET]])
def test_a_word_too_many_is_wrong_usage_and_not_repeated(argv, capsys):
    assert left_by_exit(*argv) == ExitCode.USAGE
    errors = capsys.readouterr().err
    assert f"devstral-proxy {argv[0]}: error: too many arguments" in errors
    assert SECRET not in errors


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["print-config"], 0),
        (["completion", "bash"], 0),
        (["keys", "list", "--json"], 0),
        (["doctor", "http://127.0.0.1:9"], 1),
        (["doctor", "http://127.0.0.1:9", "--json"], 1),
    ],
)
def test_a_reader_that_has_seen_enough_changes_nothing(argv, code, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    more = ["--keys-file", str(tmp_path / "keys.json")] if argv[0] == "keys" else []
    command = [sys.executable, "-m", "proxy", *argv, *more]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=DEADLINE_S)
    os.close(writing)

    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_setting_ends_every_command_with_config(command, capsys):
    assert main([command, "--port", "70000"]) == ExitCode.CONFIG
    assert capsys.readouterr().err.startswith("devstral-proxy: flag --port: expected whole number")


def test_an_unknown_flag_ends_with_config_and_is_not_taken_for_a_command(capsys):
    assert main(["--vllm-api-key", SECRET]) == ExitCode.CONFIG
    assert capsys.readouterr().err == "devstral-proxy: unknown flag --vllm-api-key; did you mean --vllm-api-key-file?\n"


def test_print_config_prints_every_setting_with_secrets_masked(capsys, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", SECRET)
    monkeypatch.setenv("PROXY_PORT", "1234")

    assert main(["print-config", "--option", "bridge=never"]) == ExitCode.CLEAN
    printed = json.loads(capsys.readouterr().out)

    assert set(printed) == set(SETTINGS)
    assert (printed["vllm_api_key"], printed["port"], printed["options"]) == ("***", 1234, {"bridge": "never"})


def test_check_config_accepts_what_serve_would_and_creates_nothing(tmp_path, capsys):
    (tmp_path / "proxy.toml").write_text("port = 9001\n[options]\nbridge = 'never'\n", encoding="utf-8")

    assert main(["check-config", "--config", str(tmp_path / "proxy.toml"), "--log-file", str(tmp_path / "log")]) == 0
    assert capsys.readouterr().out == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["proxy.toml"]


def test_check_config_tells_of_keys_whose_tier_is_not_there(tmp_path, capsys):
    (tmp_path / "proxy.toml").write_text("keys_file = '%s'\n[tiers.ops]\n" % (tmp_path / "keys.json"), encoding="utf-8")
    for name, tier in (("alice", "ops"), ("bob", "default"), ("carol", "opps")):
        assert main(["keys", "add", name, "--tier", tier, "--keys-file", str(tmp_path / "keys.json")]) == 0
    capsys.readouterr()

    assert main(["check-config", "--config", str(tmp_path / "proxy.toml")]) == 0
    assert capsys.readouterr().err == (
        "devstral-proxy: the key carol is refused: its tier opps is not among `tiers`\n"
        "devstral-proxy: the configuration is valid\n"
    )


def test_check_config_finds_a_log_file_that_cannot_be_written(tmp_path, capsys):
    assert main(["check-config", "--log-file", str(tmp_path / "absent" / "log")]) == ExitCode.CONFIG
    assert "log_file: the directory" in capsys.readouterr().err


def test_a_key_file_is_read(tmp_path, capsys):
    (tmp_path / "key").write_text(SECRET + "\n", encoding="utf-8")

    assert main(["print-config", "--vllm-api-key-file", str(tmp_path / "key")]) == ExitCode.CLEAN
    assert json.loads(capsys.readouterr().out)["vllm_api_key"] == "***"


# --- the process


@contextlib.contextmanager
def running(*argv):
    """Yield a proxy in a process of its own that accepts connections, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    command = [sys.executable, "-m", "proxy", *argv, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment())
    try:
        wait_until_it_accepts(process, port)
        yield process, port
    finally:
        process.kill()
        process.wait()


def wait_until_it_accepts(process, port):
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    pytest.fail(f"no proxy on port {port}; exit code {process.poll()}")


def clean_environment():
    names = {name for row in SETTINGS.values() for name in row.variables}
    return {name: value for name, value in os.environ.items() if name not in names} | {"DRAIN_DELAY": "0"}


@pytest.mark.parametrize(
    ("argv", "sent", "code"),
    [
        (["serve"], signal.SIGTERM, ExitCode.CLEAN),
        (["demo"], signal.SIGTERM, ExitCode.CLEAN),
        ([], signal.SIGINT, ExitCode.INTERRUPTED),
    ],
)
def test_a_signal_ends_the_process_with_its_code(argv, sent, code):
    with running(*argv) as (process, _):
        process.send_signal(sent)

        assert process.wait(DEADLINE_S) == code


def test_demo_answers_without_the_configured_upstream():
    with running("demo", "--vllm-base", "http://127.0.0.1:1") as (_, port):
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=DEADLINE_S)
        with answer:
            models = json.load(answer)

    assert models["object"] == "list"


def test_a_port_in_use_ends_with_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "proxy", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=clean_environment())

    assert done.returncode == ExitCode.UNAVAILABLE, done.stderr
    assert "Traceback" not in done.stderr


def test_a_log_file_that_cannot_be_written_ends_serve_with_config(tmp_path):
    command = [sys.executable, "-m", "proxy", "--port", "0", "--log-file", str(tmp_path / "absent" / "log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, env=clean_environment())

    assert done.returncode == ExitCode.CONFIG
    assert done.stderr.startswith("devstral-proxy: log_file: the directory")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"STORE_URL": f"ftp://:{SECRET}@127.0.0.1"}, "store_url"),
        ({"STORE_URL": f"redis://:{SECRET}@127.0.0.1?retry=1"}, "store_url"),
        ({"TLS_CERT_FILE": "/nonexistent.pem"}, "tls_cert_file"),
        ({"PROXY_KEYS": SECRET}, "keys_file"),
        ({"PROXY_AUTH": "required"}, "auth"),
        ({"PROXY_AUTH": "open", "PROXY_API_KEYS": SECRET}, "auth"),
        ({"PROXY_ISSUERS": '[{"url": "http://id.example", "audience": ["a"]}]'}, "issuers[0]"),
    ],
)
def test_what_no_worker_could_use_is_found_without_starting_one(environment, named, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert main(["check-config"]) == ExitCode.CONFIG
    message = capsys.readouterr().err
    assert named in message
    assert SECRET not in message
