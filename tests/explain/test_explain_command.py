"""The command `explain` in a process of its own: what it reads, what it prints and how it ends."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import SETTINGS, ConfigError
from proxy.explain.command import explain
from proxy.fronts.messages import MessagesFront
from proxy.translate.profile import build_profile
from proxy.translate.request import translate_request
from proxy.translate.tools import legal_name
from tests.translate.answers import DONE, chunk, whole

CASES = Path(__file__).parents[1] / "cases"
TIMEOUT_S = 30
DEVELOPER = json.dumps({"model": "m", "messages": [{"role": "developer", "content": "Be brief."}]}).encode()
BARD = json.dumps({"messages": [{"role": "bard", "content": "x"}]}).encode()
OFFER = json.dumps({
    "messages": [{"role": "user", "content": "Hi"}],
    "tools": [{"type": "function", "function": {"name": "get.weather", "parameters": {"type": "object"}}}],
}).encode()  # fmt: skip


def environment(**more):
    names = {name for row in SETTINGS.values() for name in row.variables} | {"NO_COLOR"}
    return {name: value for name, value in os.environ.items() if name not in names} | more


def run(*arguments, given=b"", **variables):
    command = [sys.executable, "-m", "proxy", "explain", *arguments]
    return subprocess.run(
        command, input=given, capture_output=True, timeout=TIMEOUT_S, env=environment(**variables), cwd=CASES.parents[1]
    )


def on_a_terminal(*arguments, **variables):
    """Return the exit code and what a terminal of its own gets."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", "explain", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env=environment(TERM="xterm", **variables),
        cwd=CASES.parents[1],
    )
    os.close(follower)
    out = b""
    try:
        while data := os.read(leader, 65536):
            out += data
    except OSError:  # how Linux says that nobody has the other end open
        pass
    os.close(leader)
    return process.wait(TIMEOUT_S), out


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


# --- the process


def test_standard_input_is_explained_without_a_single_escape():
    done = run("-", given=DEVELOPER)

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"developer_to_system" in done.stdout
    assert b"request  standard input (" in done.stdout
    assert b"\x1b" not in done.stdout


def test_a_terminal_gets_colours():
    code, out = on_a_terminal(str(CASES / "request" / "q03_developer.json"))

    assert code == 0
    assert b'\x1b[31m    -   "role": "developer",\x1b[0m' in out
    assert b'\x1b[32m    +   "role": "system",\x1b[0m' in out


@pytest.mark.parametrize(("flags", "variables"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"})])
def test_a_terminal_gets_no_colours_where_they_are_not_wanted(flags, variables):
    code, out = on_a_terminal(str(CASES / "request" / "q03_developer.json"), *flags, **variables)

    assert code == 0
    assert b"developer_to_system" in out
    assert b"\x1b" not in out


def test_what_a_terminal_would_obey_does_not_reach_it(written):
    body = json.dumps({"messages": [{"role": "developer", "content": "\x1b]0;owned\x07 \x9b31m"}]}, ensure_ascii=False)
    code, out = on_a_terminal(written("evil.json", body.encode()), "--full", "--json")

    assert code == 0
    assert b"\x1b" not in out
    assert "\x9b" not in out.decode()


@pytest.mark.parametrize(
    ("arguments", "given", "code"),
    [
        (["-"], DEVELOPER, 0),
        (["-"], BARD, 1),
        (["-", "--strict"], DEVELOPER, 1),
        (["-"], b"no JSON", 1),
        (["/nonexistent.json"], b"", 2),
        ([], b"", 2),
        (["-", "--no-such-flag"], DEVELOPER, 2),
        (["-", "--request", "-", "--answer"], DEVELOPER, 2),
        (["-", "--request", "other.json"], DEVELOPER, 2),
        (["-", "--option", "no_such=1"], DEVELOPER, 78),
        (["-", "--option", "bridge=perhaps"], DEVELOPER, 78),
        (["-", "--profile", "no-such"], DEVELOPER, 78),
        (["-", "--option", "param_drop=messages"], DEVELOPER, 78),
    ],
)
def test_the_exit_code_says_how_it_went(arguments, given, code):
    done = run(*arguments, given=given)

    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr


def test_who_has_seen_enough_may_leave():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "proxy", "explain", "tests/cases/request/agent_interrupted.json"]
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, timeout=TIMEOUT_S, env=environment(), cwd=CASES.parents[1]
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (0, b"")


def test_help_has_examples_and_says_that_content_is_printed():
    done = run("--help")

    assert done.returncode == 0
    assert b"The content of the file is printed, on purpose" in done.stdout
    assert done.stdout.count(b"devstral-proxy explain ") >= 7


# --- settings


def test_settings_are_those_of_the_proxy(written, capsys):
    config = written("proxy.toml", b"profile = 'vllm-hf-template'\n[options]\nbridge = 'never'\n")

    assert explain([written("a.json", DEVELOPER), "--config", config, "--option", "lead_system=keep"], {}) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1:4] == [
        "profile  vllm-hf-template", "option   lead_system=keep", "option   bridge=never",
    ]  # fmt: skip


def test_the_environment_counts(written, capsys):
    explain([written("a.json", DEVELOPER)], {"PROXY_PROFILE": "mistral-api", "PROXY_OPTIONS": "bridge=never"})

    assert "profile  mistral-api\noption   bridge=never\n" in capsys.readouterr().out


def test_the_profile_of_the_upstreams_is_taken_and_others_are_named(written, capsys):
    backends = '[{"url": "http://a", "profile": "mistral-api"}, {"url": "http://b", "profile": "vllm-hf-template"}]'
    explain([written("a.json", DEVELOPER)], {"PROXY_BACKENDS": backends})

    assert "profile  mistral-api\n         other upstreams have vllm-hf-template:" in capsys.readouterr().out


def test_a_profile_that_is_named_is_taken_whatever_upstreams_there_are(written, capsys):
    backends = '[{"url": "http://a", "profile": "mistral-api"}]'
    explain([written("a.json", DEVELOPER), "--profile", "vllm-hf-template"], {"PROXY_BACKENDS": backends})

    assert "profile  vllm-hf-template\n" in capsys.readouterr().out


def test_auto_says_what_it_stands_for(written, capsys):
    explain([written("a.json", DEVELOPER)], {})

    assert "profile  vllm-mistral-tokenizer\n         `auto` depends on the upstream" in capsys.readouterr().out


def test_a_bad_setting_is_an_error_of_the_configuration(written):
    with pytest.raises(ConfigError):
        explain([written("a.json", DEVELOPER)], {"PROXY_OPTIONS": "bridge=perhaps"})


# --- answers


def test_a_stream_is_read_by_its_request(written, capsys):
    wire_name = legal_name("get.weather")
    leaked = chunk({"role": "assistant", "content": ""}) + chunk({"content": f"[TOOL_CALLS]{wire_name}[ARGS]{{}}"})
    stream = written("a.sse", leaked + chunk({}, "stop") + DONE)

    assert explain([stream, "--request", written("a.json", OFFER)], {}) == 0
    out = capsys.readouterr().out
    assert "request  tools get.weather; tool_choice auto\n" in out
    assert "restore_tool_names: R5" in out
    assert '"name": "get.weather"' in out


def test_a_call_leaks_through_only_where_its_tool_is_not_known(written, capsys):
    leaked = chunk({"role": "assistant", "content": ""}) + chunk({"content": "[TOOL_CALLS]get_time[ARGS]{}"})
    stream = written("recorded", leaked + chunk({}, "stop") + DONE)

    explain([stream, "--stream", "--tool", "get_time"], {})
    assert "recover_leaked_calls: R3" in capsys.readouterr().out
    explain([stream, "--stream"], {})
    out = capsys.readouterr().out
    assert "recover_leaked_calls" not in out
    assert "--tool NAME names a tool that it offered" in out


def test_a_whole_answer_is_explained_with_its_rules(written, capsys):
    answer = whole({"content": "[TOOL_CALLS]get_time[ARGS]{}", "refusal": None}, kv_transfer_params=None)

    assert explain(["--answer", written("a.json", answer), "--tool", "get_time", "--json"], {}) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == "answer"
    assert {"recover_leaked_calls", "strip_vendor_fields", "finish_by_content"} <= set(said["rules_applied"])
    assert said["body"]["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "get_time", "arguments": "{}"}
    assert "choices[0].message.content" in said["paths"]

    assert explain(["--answer", written("a.json", answer), "--tool", "get_time"], {}) == 0
    out = capsys.readouterr().out
    assert re.search(r'\+ +"finish_reason": "tool_calls"', out)
    assert "recover_leaked_calls: R3, H7:" in out


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"error": {"message": "no", "code": 400}}', b'{"choices": []}'])
def test_an_answer_that_is_none_is_an_error(answer, written, capsys):
    assert explain(["--answer", written("a.json", answer)], {}) == 1
    assert "the client gets HTTP " in capsys.readouterr().out


def test_a_request_that_is_refused_has_no_answer(written, capsys):
    arguments = ["--answer", written("a.json", whole({"content": "x"})), "--request", written("r.json", BARD)]

    assert explain(arguments, {}) == 1
    assert "refused: there is no answer to this request." in capsys.readouterr().out
    assert explain([*arguments, "--json"], {}) == 1
    assert json.loads(capsys.readouterr().out)["error"]["status"] == 400


@pytest.mark.parametrize(
    ("flags", "content", "hint"),
    [
        ([], b"data: {}\n\n", "--stream explains one"),
        (["--stream"], b'{"messages": []}', "no flag a request"),
        ([], whole({"content": "x"}), "--answer explains one"),
        (["--answer"], DONE, "--stream explains one"),
    ],
)
def test_the_wrong_kind_of_file_gets_a_hint(flags, content, hint, written, capsys):
    assert explain([written("a", content), *flags], {}) == 1
    assert hint in capsys.readouterr().err


# --- other APIs


@pytest.mark.parametrize("path", sorted((CASES / "messages").glob("*.json")), ids=lambda path: path.stem)
def test_a_request_of_the_messages_api_is_explained_as_it_is_served(path, written, capsys):
    body = json.dumps(json.loads(path.read_bytes())["request"]).encode()
    front = MessagesFront("")
    served = translate_request(front.request(body, strict=False), build_profile("mistral-api"))

    assert explain([written("a.json", body), "--api", "messages", "--profile", "mistral-api", "--json"], {}) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["api"], said["body"]) == ("messages", json.loads(served.body))
    assert (tuple(said["front_rules"]), tuple(said["rules_applied"])) == (front.rules, served.rules_applied)
    assert all(said["front_rules"].values())

    explain([written("a.json", body), "--api", "messages", "--profile", "mistral-api"], {})
    out = capsys.readouterr().out
    assert "api      /v1/messages\n" in out
    assert all(rule in out for rule in (*front.rules, *served.rules_applied))


def test_a_request_of_the_responses_api_is_explained_too(written, capsys):
    body = {"model": "m", "input": "Hi", "truncation": "auto", "instructions": "Be brief."}

    assert explain([written("a.json", json.dumps(body).encode()), "--api", "responses", "--full"], {}) == 0
    out = capsys.readouterr().out
    assert "as chat  " in out
    assert "truncation_removed\n" in out
    assert "goes upstream as this chat completion (" in out
    assert '"content": "Be brief."' in out


@pytest.mark.parametrize(
    ("api", "body", "says"),
    [
        ("messages", {"max_tokens": 1, "messages": [{"role": "x"}]}, ['"type": "error",', "in what the client sent"]),
        ("responses", {"input": [{"role": "bard"}]}, ['"param": "input[0].role",', "in what the client sent"]),
        ("responses", {"input": [{"role": "developer", "content": "x"}]},
         ['"param": "input[0]",', "at messages[0].role, in the chat completion that this becomes"]),
    ],
)  # fmt: skip
def test_a_refusal_has_the_form_of_the_api(api, body, says, written, capsys):
    assert explain([written("a.json", json.dumps(body).encode()), "--api", api, "--strict"], {}) == 1
    out = capsys.readouterr().out
    assert all(words in out for words in says), out


def test_an_answer_is_read_by_a_request_of_another_api(written, capsys):
    tools = [{"name": "f", "input_schema": {}}]
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "tools": tools}
    request = written("r.json", json.dumps(body).encode())
    answer = written("a.json", whole({"content": "[TOOL_CALLS]f[ARGS]{}"}))

    assert explain(["--answer", answer, "--request", request, "--api", "messages"], {}) == 0
    assert "recover_leaked_calls" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "flags", "hint"),
    [
        ({"input": "Hi"}, [], "--api responses explains one"),
        ({"messages": [], "system": "Be brief."}, [], "--api messages explains one"),
        ({"messages": [], "tools": [{"name": "f", "input_schema": {}}]}, [], "--api messages explains one"),
        ({"messages": [], "system": "Be brief."}, ["--api", "messages"], ""),
        (json.loads(OFFER), [], ""),
        (["messages"], [], ""),
    ],
)
def test_a_request_of_another_api_gets_a_hint(body, flags, hint, written, capsys):
    explain([written("a.json", json.dumps(body).encode()), *flags], {})
    err = capsys.readouterr().err
    assert hint in err
    assert bool(err) is bool(hint)


# --- for programs


@pytest.mark.parametrize("name", ["agent_interrupted", "q19_schemas", "h2_one_id_for_every_call", "untouched"])
def test_json_has_every_rule_with_its_reason_and_the_body(name, capsys):
    explain([str(CASES / "request" / f"{name}.json"), "--json"], {})
    said = json.loads(capsys.readouterr().out)

    assert said["body"] == json.loads((CASES / "request" / f"{name}.vllm-mistral-tokenizer.json").read_bytes())
    assert [rule["rule"] for rule in said["rules"]] == said["rules_applied"]
    assert all(rule["reason"] and rule["paths"] for rule in said["rules"])
    assert said["error"] is None


def test_json_of_a_stream_has_every_event(capsys):
    explain([str(CASES / "stream" / "cut-off.sse"), "--json"], {})
    said = json.loads(capsys.readouterr().out)

    assert "".join(event["came"] for event in said["events"]) == (CASES / "stream" / "cut-off.sse").read_text("utf-8")
    assert said["state"] == "FAILED"
    assert said["error"]["body"]["error"]["code"] == "upstream_disconnected"


def test_whatever_depth_a_request_has_it_is_explained_or_said_to_be_too_deep(written, capsys):
    """The decoders, the rules and what shows them give up at different depths, some hundred levels down."""
    codes = set()
    for depth in range(850, 1010, 2):
        parameters = b'{"x": ' + b"[" * depth + b"]" * depth + b"}"
        codes.add(explain([written("deep.json", OFFER.replace(b'{"type": "object"}', parameters))], {}))

    assert codes == {0, 1}
    assert "nested" in "".join(capsys.readouterr())
