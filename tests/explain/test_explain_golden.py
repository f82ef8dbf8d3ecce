"""
What `explain` prints, as files: golden/NAME.txt is the output of the arguments below, run in tests/cases.

`UPDATE_GOLDEN=1 pytest tests/explain/test_explain_golden.py` writes what comes out; read it before it is committed.
"""

import os
from pathlib import Path

import pytest

from proxy.explain.command import explain

CASES = Path(__file__).parents[1] / "cases"
GOLDEN = Path(__file__).parent / "golden"

#: name: the exit code, and the arguments
OUTPUTS = {
    "agent_interrupted": (0, "request/agent_interrupted.json"),
    "agent_interrupted.template": (0, "request/agent_interrupted.json --profile vllm-hf-template --full"),
    "untouched": (0, "request/untouched.json --profile mistral-api --option continue_text=Go --option bridge=never"),
    "results_moved": (0, "request/h1_result_long_after_its_call.json"),
    "results_joined": (0, "request/q09_two_results_for_one_call.json"),
    "tools": (0, "request/q19_definition_extras.json"),
    "stream_asked": (0, "request/q24_stream_with_usage.json --profile mistral-api --user-agent ai-sdk/mistral/3.0.58"),
    "whole_asked": (0, "request/q24_stream_with_usage.json --option upstream_stream=never"),
    "long_runs": (0, "request/q06_text_parts.json"),
    "strict": (1, "request/q06_text_parts.json --strict"),
    "passthrough": (0, "request/q06_text_parts.json --profile passthrough"),
    "json": (0, "request/q03_developer.json --json"),
    "leaked_calls": (0, "stream/no-parser-two-calls.sse --tool get_weather --tool get_time"),
    "leaked_calls_unknown": (0, "stream/no-parser-two-calls.sse"),
    "cut_off": (1, "stream/cut-off.sse"),
    "malformed": (1, "stream/malformed-event.sse"),
    "thinking": (0, "stream/hosted-thinking.sse --profile mistral-api"),
    "framing": (0, "stream/framing.sse --full"),
    "relayed": (0, "stream/length.sse --profile passthrough"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_output_is_the_golden_one(name, monkeypatch, capsys):
    monkeypatch.chdir(CASES)
    code, arguments = OUTPUTS[name]

    assert explain(arguments.split(), {}) == code
    out = capsys.readouterr().out
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / f"{name}.txt").write_text(out, encoding="utf-8")

    assert out == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_file_belongs_to_an_output():
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.txt" for name in OUTPUTS}
