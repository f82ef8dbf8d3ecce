"""`devstral-proxy completion`: what real shells offer with its script. zsh and fish are Debian's."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from proxy.cli import COMMANDS, WITH_ARGUMENTS, main
from proxy.config import SETTINGS

#: Generous: the machine may do something else.
DEADLINE_S = 30
#: Ends what a shell offers, in its output.
MARK = "@@"
EVERY_COMMAND = {*COMMANDS, *WITH_ARGUMENTS}

#: What is typed, and some of what is offered.
CASES = [
    ("devstral-proxy ", EVERY_COMMAND),
    ("devstral-proxy ch", {"check-config"}),
    ("devstral-proxy keys ", {"add", "list", "revoke"}),
    ("devstral-proxy completion ", {"bash", "zsh", "fish"}),
    ("devstral-proxy serve --log-level ", {"debug", "info", "warning", "error"}),
    ("devstral-proxy check-config --profile pass", {"passthrough"}),
    ("devstral-proxy --metrics-a", {"--metrics-auth"}),
    ("devstral-proxy serve --strict ", {"true", "false"}),
    ("devstral-proxy keys add --t", {"--tier"}),
    ("devstral-proxy keys list --j", {"--json"}),
    ("devstral-proxy tail --s", {"--status", "--slow", "--since"}),
    ("devstral-proxy doctor --pro", {"--profile"}),
    ("devstral-proxy explain --ans", {"--answer"}),
    ("devstral-proxy explain --api ", {"chat", "messages", "responses"}),
    ("devstral-proxy healthcheck --r", {"--ready", "--read-timeout-s", "--retry-budget", "--reuse-port"}),
    ("devstral-proxy serve --config prox", {"proxy.toml"}),
    ("devstral-proxy tail pro", {"proxy.toml"}),
    ("devstral-proxy print-config --tls-cert-file pro", {"proxy.toml"}),
    ("devstral-proxy serve --option client_ids=", {"client_ids=call_prefix", "client_ids=upstream"}),
]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """`script("bash")`: the path of what the command writes; beside it is proxy.toml."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "proxy.toml").touch()

    def written(shell):
        path = folder / f"completion.{shell}"
        if not path.exists():
            command = [sys.executable, "-m", "proxy", "completion", shell]
            path.write_bytes(subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE_S).stdout)
        return path

    return written


def run(*command, folder):
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S, cwd=folder)
    assert done.stderr == ""
    return done.stdout


# --- bash: the function is called as bash calls it


ASK_BASH = """
source "$1"
COMP_LINE="$2" COMP_POINT=${#2}
IFS=' ' read -r -a COMP_WORDS <<< "$2"
[[ "$2" == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_shtab_devstral_proxy devstral-proxy "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("typed", "offered"), CASES, ids=[typed for typed, _ in CASES])
def test_bash_offers_it(script, typed, offered):
    path = script("bash")
    said = run("bash", "--norc", "-c", ASK_BASH, "bash", str(path), typed, folder=path.parent)

    assert set(said.split()) >= offered


def test_bash_registers_it_for_the_program(script):
    path = script("bash")

    assert "devstral-proxy" in run("bash", "-c", f"source {path}; complete -p devstral-proxy", folder=path.parent)


# --- fish says what it would offer


@pytest.mark.parametrize(("typed", "offered"), CASES, ids=[typed for typed, _ in CASES])
def test_fish_offers_it(script, installed, typed, offered):
    path, fish = script("fish"), installed("fish")
    said = run(str(fish), "--no-config", "-c", f"source {path}; complete -C '{typed}'", folder=path.parent)

    assert {line.split("\t")[0] for line in said.splitlines()} >= offered


# --- zsh offers it on a terminal only


@pytest.fixture
def zsh(script, installed):
    """`zsh(typed)`: what an interactive zsh shows when Tab is pressed behind that."""
    path, program = script("zsh"), installed("zsh")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(path.parent)
        os.environ.update(TERM="xterm", COLUMNS="200", LINES="200", PS1=MARK, HOME=str(path.parent))
        os.execv(program, ["zsh", "-f", "-i"])

    def until(mark, since=""):
        deadline = time.monotonic() + DEADLINE_S
        while not re.search(mark, since):
            assert time.monotonic() < deadline, since
            if select.select([terminal], [], [], 0.5)[0]:
                since += os.read(terminal, 65_536).decode(errors="replace")
        return since

    def asked(typed, last):
        os.write(terminal, f"{typed}\t\t".encode())
        shown = until(last)
        os.write(terminal, b"\x15")  # Ctrl-U: forget the line
        return shown

    try:
        os.write(
            terminal, b'stty cols 200 rows 200; autoload -Uz compinit; compinit -u; eval "$(cat completion.zsh)"\n'
        )
        os.write(terminal, b"setopt noalwayslastprompt listrowsfirst; LISTMAX=1000; print rea''dy\n")
        until("ready")
        yield asked
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("devstral-proxy ch", "check-config"),
        ("devstral-proxy keys rev", "revoke"),
        ("devstral-proxy completion f", "fish"),
        ("devstral-proxy serve --log-level war", "warning"),
        ("devstral-proxy --metrics-a", "--metrics-auth"),
        ("devstral-proxy serve --config prox", r"proxy\.toml"),
        ("devstral-proxy doctor --pro", "--profile"),
        ("devstral-proxy tail pro", r"proxy\.toml"),
    ],
)
def test_zsh_completes_what_there_is_one_of(zsh, typed, offered):
    zsh(typed, offered)


def test_zsh_lists_the_commands_with_their_sentences(zsh):
    shown = zsh("devstral-proxy ", r"tail +-- The log of a proxy for people")  # the last one: they come in pieces

    for name in ("serve", "keys", "doctor", "Write a script with which a shell completes"):
        assert name in shown


# --- all of it


def test_every_command_and_every_flag_of_the_settings_is_in_each_script(script):
    flags = {row.flag for row in SETTINGS.values()} | {"--prometheus-port"}
    for shell in ("bash", "zsh"):
        words = set(re.findall(r"-{0,2}[\w-]+", script(shell).read_text()))
        assert words >= EVERY_COMMAND | flags
    long = set(re.findall(r"-l ([\w-]+)", script("fish").read_text()))
    assert {f"--{flag}" for flag in long} >= flags


def test_without_shtab_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)

    assert main(["completion", "bash"]) == 1
    assert "pip install 'devstral-proxy[cli]'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["tcsh"], ["bash", "zsh"]])
def test_another_shell_is_wrong_usage(arguments):
    with pytest.raises(SystemExit) as caught:
        main(["completion", *arguments])
    assert caught.value.code == 2
