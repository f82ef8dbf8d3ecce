"""Checks that let the model work: a tool call whole and streamed, its result, and thoughts. Four answers in all."""

import json
from typing import Any, Final

from proxy.doctor.case import Case, Kind
from proxy.doctor.outcome import Outcome, failed, ok, quoted, skipped, warning
from proxy.doctor.said import Round, exchange

#: Room for thoughts before a call. Arbitrary; an answer ends by itself long before.
_MOST_TOKENS: Final = 1024
#: Thoughts come first, so their beginning is enough.
_MOST_THOUGHT_TOKENS: Final = 256
_MARKS: Final = ("[TOOL_CALLS]", "[ARGS]")
_THOUGHT_MARKS: Final = ("[THINK]", "<think>")

_FLAGS: Final = "vllm serve … --enable-auto-tool-choice --tool-call-parser mistral"
_QUESTION: Final = {"role": "user", "content": "What is the weather in Paris? Call the tool get_weather."}
_RIDDLE: Final = {"role": "user", "content": "Please think before you answer: what is 17 + 25?"}
_RESULT: Final = "18 °C, clear sky"
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def _body(case: Case, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    limit = min(_MOST_TOKENS, (case.max_model_len or _MOST_TOKENS * 2) // 2)
    return {"model": case.model, "messages": messages, "temperature": 0.0, "max_tokens": limit, **more}


async def _round(case: Case, *messages: dict[str, Any], **more: Any) -> Round:
    return await exchange(case.server, case.profile, _body(case, *messages, **more))


async def tool_parser(case: Case) -> Outcome:
    """Calls come as calls: vLLM was started with a tool parser, and may choose tools by itself."""
    called = case.called = await _round(case, _QUESTION, tools=[_TOOL])
    if called.refusal:
        return _refused(called)
    if called.fault:
        return failed(f"its answer cannot be read: {quoted(called.fault)}", _FLAGS)
    if any(mark in called.came.text for mark in _MARKS) or "recover_leaked_calls" in called.rules:
        whose = "the vLLM behind it" if case.kind is Kind.PROXY else "vLLM"
        return warning(
            f"{whose} runs without a tool parser: calls come as text, which the proxy makes calls of", _FLAGS
        )
    if called.came.calls:
        return ok("calls come as calls")
    return skipped("the model called no tool")


def _refused(called: Round) -> Outcome:
    said = quoted(called.refusal)
    if "--enable-auto-tool-choice" in called.refusal or "--tool-call-parser" in called.refusal:
        return failed(f"every request with tools is refused: {said}", _FLAGS)
    if "GrammarFactory" in called.refusal:
        return failed(f"every request is refused: {said}", "pip install 'mistral-common<1.13', where vLLM runs")
    return failed(f"a request with a tool is refused ({called.status}): {said}")


async def tool_call(case: Case) -> Outcome:
    """A client of the proxy gets a call, whole."""
    return _judged(case, case.called) if case.called else skipped("no call was asked for")


async def tool_call_streamed(case: Case) -> Outcome:
    """A client of the proxy gets the same call, streamed."""
    called = await _round(case, _QUESTION, tools=[_TOOL], stream=True)
    outcome = _judged(case, called)
    if called.status == 200 and not called.is_streamed and not called.fault and case.kind is Kind.VLLM:
        return outcome._replace(says=f"{outcome.says}; the proxy asks this server for whole answers")
    return outcome


def _judged(case: Case, called: Round) -> Outcome:
    if called.refusal:
        return failed(f"refused ({called.status}): {quoted(called.refusal)}")
    if called.fault:
        return failed(f"a client gets an error: {quoted(called.fault)}")
    rules = (f"rules that changed something: {', '.join(called.rules)}",) if called.rules else ()
    took = f"{called.took_s:.1f} s"
    if any(mark in called.said.text for mark in _MARKS):
        return failed(f"the call stays in the text ({took})", _FLAGS, details=rules)
    if not called.said.calls:
        return _no_call(called, took)
    if problem := _problem(called):
        return failed(f"a call came, and {problem} ({took})", details=rules)
    return ok(f"a call came, with its arguments ({took})", *rules)


def _no_call(called: Round, took: str) -> Outcome:
    if called.said.finish == "length":
        return warning(f"no call came within {_MOST_TOKENS} tokens ({took}): the model was still writing")
    return failed(
        f"no call came ({took}): the model answered in words, or its call was lost",
        "--model NAME, if it serves others",
        _FLAGS,
    )


def _problem(called: Round) -> str:
    """Return what is wrong with the first call, "" if nothing is."""
    _, name, arguments = called.said.calls[0]
    if name != "get_weather":
        return f"it is of {quoted(name, 64)!r}, which was not offered"
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except ValueError:
        return "its arguments are not JSON"
    if not is_object:
        return "its arguments are no JSON object"
    return "" if called.said.finish == "tool_calls" else f"its finish reason is {quoted(called.said.finish, 32)!r}"


async def tool_result(case: Case) -> Outcome:
    """The second turn: the model gets the result and answers."""
    if case.called is None or not case.called.said.calls:
        return skipped("there was no call to answer")
    calls = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id_, name, arguments in case.called.said.calls
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": _RESULT} for call in calls]
    turn = {"role": "assistant", "content": None, "tool_calls": calls}
    answered = await _round(case, _QUESTION, turn, *results, tools=[_TOOL])
    took = f"{answered.took_s:.1f} s"
    if answered.refusal:
        return failed(f"the turn with the result is refused ({answered.status}): {quoted(answered.refusal)}")
    if answered.fault:
        return failed(f"a client gets an error: {quoted(answered.fault)}")
    if answered.said.calls:
        return ok(f"the model calls again ({took})")
    if not answered.said.text.strip():
        return failed(f"an empty answer ({took})")
    return ok(f"the model answers in words ({took})")


async def reasoning(case: Case) -> Outcome:
    """Thoughts come as thoughts: vLLM was started with a reasoning parser, if the model thinks."""
    thought = await _round(case, _RIDDLE, max_tokens=min(_MOST_THOUGHT_TOKENS, (case.max_model_len or 1024) // 2))
    if thought.refusal or thought.fault:
        return warning(f"a plain question fails: {quoted(thought.refusal or thought.fault)}")
    if thought.came.thoughts:
        return ok("thoughts come as thoughts")
    if any(mark in thought.came.text for mark in _THOUGHT_MARKS):
        return warning(
            "vLLM runs without a reasoning parser: thoughts come as text, and the proxy takes them out of it",
            "vllm serve … --reasoning-parser mistral",
        )
    return skipped("the model shows no thoughts, so there is nothing to see")
