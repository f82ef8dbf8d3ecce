"""devstral-proxy doctor in front of a real vLLM, started well and without its tool flags, and in front of the proxy."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.live.bench import MODES, Bench
from tests.live.servers import ROOT

pytestmark = pytest.mark.live
BENCH_MODES = ("mistral-v13", "mistral-v13-noflags", "hf-v13", "mistral-v13-reasoning")

FLAGS = "vllm serve … --enable-auto-tool-choice --tool-call-parser mistral"


def examined(url: str, *flags: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code, and each check's result by its name."""
    command = [sys.executable, "-m", "proxy", "doctor", url, "--json", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    [server] = json.loads(done.stdout)["servers"]
    return done.returncode, {check["check"]: check for check in server["checks"]}


@pytest.fixture(scope="session")
def results(bench: Bench) -> dict[str, Any]:
    code, checks = examined(bench.vllm)
    assert code == 0, [check for check in checks.values() if check["status"] == "failed"]
    return checks


def status_of(checks: dict[str, Any], *names: str) -> list[str]:
    return [checks[name]["status"] for name in names]


def test_the_doctor_sees_a_vllm_that_an_agent_can_work_with(bench: Bench, results: dict[str, Any]) -> None:
    assert results["server"]["says"] == "vLLM 0.32.0"
    assert results["models"]["says"].startswith("devstral; ")
    assert status_of(
        results, "address", "connection", "http", "version", "health", "api key", "keep-alive", "clock"
    ) == (["ok"] * 8)


def test_the_doctor_sees_who_renders_the_prompts(bench: Bench, results: dict[str, Any]) -> None:
    is_template = MODES[bench.mode].tokenizer_mode == "hf"

    assert results["tokenizer"]["status"] == ("warning" if is_template else "ok")
    assert ("template" in results["tokenizer"]["says"]) is is_template
    assert results["shapes"]["status"] == "ok"


def test_the_doctor_names_the_flags_of_a_missing_tool_parser(bench: Bench, results: dict[str, Any]) -> None:
    has_parser = MODES[bench.mode].tools

    assert results["tool parser"]["status"] == ("ok" if has_parser else "warning")
    assert results["tool parser"]["fix"] == ([] if has_parser else [FLAGS])


def test_a_tool_call_goes_round_whole_streamed_and_with_its_result(bench: Bench, results: dict[str, Any]) -> None:
    rounds = ("tool call", "tool call, streamed", "tool result")

    assert status_of(results, *rounds) == ["ok"] * 3
    is_recovered = ["recover_leaked_calls" in " ".join(results[name]["details"]) for name in rounds[:2]]
    assert is_recovered == [not MODES[bench.mode].tools] * 2


def test_the_doctor_names_the_flag_of_a_missing_reasoning_parser(bench: Bench, results: dict[str, Any]) -> None:
    """The scripted model thinks where the question says " think"; with a template its marks are not shown."""
    mode = MODES[bench.mode]
    expected = "ok" if mode.reasoning else "skipped" if mode.tokenizer_mode == "hf" else "warning"

    assert results["reasoning parser"]["status"] == expected
    flag = ["vllm serve … --reasoning-parser mistral"]
    assert results["reasoning parser"]["fix"] == (flag if expected == "warning" else [])


def test_the_doctor_knows_a_proxy_and_sees_through_it(bench: Bench) -> None:
    code, checks = examined(bench.proxy)

    assert code == 0
    assert checks["server"]["says"].startswith("this is a Devstral Proxy")
    assert status_of(checks, "health", "tool call", "tool call, streamed", "tool result") == ["ok"] * 4
    assert checks["tool parser"]["status"] == ("ok" if MODES[bench.mode].tools else "warning")
