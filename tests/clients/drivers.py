"""
The clients: each asks through its library, runs the tools, and reports what the library told it.

A report is {"turns": [{"calls": [[name, arguments]], "text", "reasoning", "finish"}], "ran", "error"}: a turn for each
answer that the library gave, the names of the tools that ran, and the message of the first error that it raised, else
"". LangChain and the AI SDK are run as programs of their own.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai

QUESTION = "What is the weather in Paris?"
RESULTS = {"get_weather": "sunny, 25 °C", "get_time": "noon"}
DEADLINE_S = 60

_HERE = Path(__file__).resolve().parent
_LANGCHAIN_PYTHON = _HERE.parents[1] / ".venv-client-langchain/bin/python"
_AI_SDK = _HERE / "js-ai-sdk/node_modules/ai"

Report = dict[str, Any]
Turn = dict[str, Any]
#: takes the proxy's base address with /v1, returns the report
Client = Callable[[str], Awaitable[Report]]


def _tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    # the .stream() helper takes strict tools only, and parses their arguments
    return {"type": "function", "function": {"name": name, "strict": True, "parameters": schema}}


TOOLS = [_tool("get_weather", city={"type": "string"}), _tool("get_time")]


# --- the openai SDK


async def openai_stream_helper(url: str) -> Report:
    """`chat.completions.stream()`: the message it puts together goes back into the history as it is."""

    async def ask(client: openai.AsyncOpenAI, messages: list[Any]) -> tuple[Turn, Any]:
        async with client.chat.completions.stream(model="devstral", messages=messages, tools=TOOLS) as stream:
            choice = (await stream.get_final_completion()).choices[0]
        message = choice.message
        calls = [[call.function.name, call.function.parsed_arguments] for call in message.tool_calls or ()]
        reasoning = getattr(message, "reasoning_content", None) or ""
        return turn(calls, message.content or "", reasoning, choice.finish_reason), message

    return await _openai_report(url, ask)


async def openai_iteration(url: str) -> Report:
    """`create(stream=True)`: the deltas are put together by hand, calls by their index, as applications do."""

    async def ask(client: openai.AsyncOpenAI, messages: list[Any]) -> tuple[Turn, Any]:
        chunks = await client.chat.completions.create(model="devstral", messages=messages, tools=TOOLS, stream=True)
        message, reasoning, finish = await _joined(chunks)
        functions = [call["function"] for call in message.get("tool_calls", ())]
        calls = [[function["name"], json.loads(function["arguments"])] for function in functions]
        return turn(calls, message["content"], reasoning, finish), message

    return await _openai_report(url, ask)


Ask = Callable[[openai.AsyncOpenAI, list[Any]], Awaitable[tuple[Turn, Any]]]


async def _openai_report(url: str, ask: Ask) -> Report:
    """Ask until an answer has no calls; report an error of the SDK, let any other pass."""
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    turns: list[Turn] = []
    ran: list[str] = []
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=http) as client:
        try:
            while not turns or turns[-1]["calls"]:
                heard, message = await ask(client, messages)
                turns.append(heard)
                messages += [message, *_results(message)]
                ran += [name for name, _ in heard["calls"]]
        except openai.APIError as error:
            return {"turns": turns, "ran": ran, "error": error.message}
    return {"turns": turns, "ran": ran, "error": ""}


def turn(calls: list[Any], text: str, reasoning: str, finish: str | None) -> Turn:
    return {"calls": calls, "text": text, "reasoning": reasoning, "finish": finish}


def _results(message: Any) -> list[dict[str, Any]]:
    """Return a tool message for each call of an assistant message, which is the SDK's object or a dictionary."""
    calls = message.get("tool_calls", ()) if isinstance(message, dict) else message.to_dict().get("tool_calls") or ()
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": RESULTS[call["function"]["name"]]} for call in calls
    ]


async def _joined(chunks: Any) -> tuple[dict[str, Any], str, str | None]:
    text, reasoning, finish = "", "", None
    calls: dict[int, dict[str, Any]] = {}
    async for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            finish = choice.finish_reason or finish
            for delta in choice.delta.tool_calls or ():
                call = calls.setdefault(delta.index, {"type": "function", "function": {"name": "", "arguments": ""}})
                call["id"] = delta.id or call["id"]
                call["function"]["name"] += delta.function.name or ""
                call["function"]["arguments"] += delta.function.arguments or ""
    message = {"role": "assistant", "content": text}
    return message | ({"tool_calls": list(calls.values())} if calls else {}), reasoning, finish


# --- programs


async def langchain(url: str) -> Report:
    """LangChain's ChatOpenAI, with `bind_tools` and `stream`."""
    return await _program(_LANGCHAIN_PYTHON, str(_LANGCHAIN_PYTHON), "-I", str(_HERE / "langchain_client.py"), url)


async def ai_sdk(url: str) -> Report:
    """The Vercel AI SDK's `streamText` on `@ai-sdk/openai-compatible`."""
    return await _program(_AI_SDK, "node", str(_HERE / "js-ai-sdk/client.mjs"), url)


def _require(needed: Path) -> None:
    if not needed.exists():
        raise RuntimeError(f"{needed} is missing: `make test-clients` sets it up")


async def _program(needed: Path, *command: str) -> Report:
    """
    Run a client with what it has to know in its environment, and nothing else there; return its report.

    Raises:
        RuntimeError: it is not set up, or it failed otherwise than by its library's error.
    """
    _require(needed)
    settings = {"QUESTION": QUESTION, "RESULTS": json.dumps(RESULTS), "LANGSMITH_TRACING": "false"}
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the client ended with {process.returncode} and wrote:\n{errors.decode()[-2000:]}")
    return json.loads(out)
