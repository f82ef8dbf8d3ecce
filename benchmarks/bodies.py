"""
The request bodies that are measured: the same bytes on every machine and on every day.

    short     0.5 KB   one question
    agentic    63 KB   a coding agent's history: 25 tools, 18 calls and their results
    huge        1 MB   the same with long results

In `agentic-new` every text, id, tool and argument holds `MARK`, in whose place the load generator puts another number
for each request: nothing was seen before. In `agentic-next` only the last call and its result do: the next turn of a
conversation whose earlier turns were seen.

`agentic` and `huge` exist in two forms. The client's form is what openai-python sends back (`model_dump()` of its
messages, long call ids, lists of text parts, `strict` tools), so rules have work to do. The clean form is what
Mistral's own clients send: no rule changes anything, which a test checks.

The members that benchmarks/src/mock.c reads come first: it looks for them at the body's ends only.
"""

import hashlib
import json
import random
import string
from pathlib import Path
from typing import Any, Final

TOOLS: Final = 25
#: What src/load.c replaces by a number of as many digits.
MARK: Final = "%%%%%%%%"
ROUNDS: Final = 18
#: What tool results are padded to, in bytes of the whole body.
TARGETS: Final = {"agentic": 63_000, "huge": 1_000_000}

_PLAIN_WORDS: Final = (
    "the file returns value error while reading config from disk and the parser then emits token stream for server "
    "proxy request response header body chunk buffer timeout retry async await function class import module path"
)
#: Words that JSON escapes, or that UTF-8 writes in more than one byte.
_AWKWARD_WORDS: Final = ['"quoted"', "naïve", "café", "–", "你好", "line\nbreak\ttab", "C:\\path\\name"]
_WORDS: Final = [*_PLAIN_WORDS.split(), *_AWKWARD_WORDS]
_ALPHANUMERIC: Final = string.ascii_letters + string.digits


class _Writer:
    """Makes up texts and ids, always the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def text(self, length: int) -> str:
        words: list[str] = []
        while sum(map(len, words)) + len(words) <= length:
            words += self._random.choices(_WORDS, k=max(1, length // 8))
        return " ".join(words)[:length]

    def call_id(self, *, clean: bool) -> str:
        letters = "".join(self._random.choices(_ALPHANUMERIC, k=24))
        return letters[:9] if clean else f"call_{letters}"


def short_chat(*, with_tool: bool = False) -> dict[str, Any]:
    """Return a system message and a question; no rule has anything to do."""
    writer = _Writer("short")
    messages = [
        {"role": "system", "content": "You are a helpful coding assistant."},
        {"role": "user", "content": writer.text(260)},
    ]
    return {"messages": messages, "tools": [_tool(writer, 0, clean=True)]} if with_tool else {"messages": messages}


def long_chat(size: str, *, clean: bool) -> dict[str, Any]:
    """Return an agent's history that ends in a tool result; `size` is a key of `TARGETS`."""
    without_results = len(encode(_history(0, clean=clean)))
    # Half of the results are three times as long as the other half.
    per_result = (TARGETS[size] - without_results) // (2 * ROUNDS)
    # Escapes and letters outside ASCII make a text longer in JSON than it is in characters.
    spread = len(encode(_Writer("spread").text(100_000))) / 100_000
    return _history(int(per_result / spread), clean=clean)


def encode(value: Any) -> bytes:
    """Return `value` as JSON, written as openai-python and JavaScript clients write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def make_body(chat: dict[str, Any], **control: Any) -> bytes:
    """Return a body; `control` overrides what steers the mock: stream, max_tokens, seed, tool_choice, user."""
    steering = {"model": "mock", "stream": False, "max_tokens": 64, "seed": 0, "temperature": 0.2}
    return encode({**steering, **control, **chat})


def all_bodies() -> dict[str, bytes]:
    """Return every body by name."""
    short, with_tool = short_chat(), short_chat(with_tool=True)
    return {
        "short": make_body(short),
        "agentic": make_body(long_chat("agentic", clean=False)),
        "agentic-clean": make_body(long_chat("agentic", clean=True)),
        "agentic-new": make_body(marked(long_chat("agentic", clean=False))),
        "agentic-next": make_body(_with_new_turn(long_chat("agentic", clean=False))),
        "huge": make_body(long_chat("huge", clean=False)),
        "huge-clean": make_body(long_chat("huge", clean=True)),
        "text-burst": make_body(short, stream=True, max_tokens=200),
        "call-burst": make_body(with_tool, stream=True, max_tokens=200, tool_choice="required"),
        "leaked-burst": make_body(with_tool, stream=True, max_tokens=200, user="leaked"),
        "thought-burst": make_body(short, stream=True, max_tokens=200, user="reasoning"),
        "text-paced": make_body(short, stream=True, max_tokens=50, seed=20_000),
        "text-paced-100": make_body(short, stream=True, max_tokens=100, seed=20_000),
        "text-start": make_body(short, stream=True, max_tokens=4, seed=20_000),
    }


def write_bodies(folder: Path) -> str:
    """Write each body to `folder`/NAME.json; return a digest of all of them, by which runs can be told apart."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for name, body in all_bodies().items():
        (folder / f"{name}.json").write_bytes(body)
        digest.update(body)
    return digest.hexdigest()[:12]


def marked(value: Any) -> Any:
    """Return a part of a body with `MARK` in every text, id, name and argument. Texts and ids keep their length."""
    if isinstance(value, list):
        return [marked(item) for item in value]
    if isinstance(value, dict):
        return {key: _marked_member(key, item) for key, item in value.items()}
    return value


def _marked_member(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return marked(value)
    if key in ("content", "text", "description"):
        return f"{MARK} {value[len(MARK) + 1 :]}"
    if key in ("id", "tool_call_id"):
        return f"{value[: -len(MARK)]}{MARK}"
    if key == "name":
        return f"{value}_{MARK}"
    return f'{{"turn": "{MARK}", {value[1:]}' if key == "arguments" else value


def _with_new_turn(chat: dict[str, Any]) -> dict[str, Any]:
    messages = chat["messages"]
    last_call = max(index for index, message in enumerate(messages) if message.get("tool_calls"))
    names = [call["function"]["name"] for call in messages[last_call]["tool_calls"]]
    new = marked(messages[last_call:])
    for call, name in zip(new[0]["tool_calls"], names, strict=True):
        call["function"]["name"] = name
    return {**chat, "messages": [*messages[:last_call], *new]}


# --- the parts of an agent's history


def _history(result_length: int, *, clean: bool) -> dict[str, Any]:
    writer = _Writer("history")
    tools = [_tool(writer, i, clean=clean) for i in range(TOOLS)]
    messages = [
        {"role": "system", "content": writer.text(8_000)},
        _user(writer.text(600), clean=clean),
    ]
    results = _Writer("results")
    for i in range(ROUNDS):
        messages += _round(writer, results, i, result_length, clean=clean)
    return {"messages": messages, "tools": tools, "parallel_tool_calls": True}


def _round(writer: _Writer, results: _Writer, index: int, result_length: int, *, clean: bool) -> list[dict[str, Any]]:
    """Return a call and its result; every sixth time the model answers then, and the user goes on."""
    call_id, name = writer.call_id(clean=clean), _tool_name(index % TOOLS)
    arguments = json.dumps({"path": writer.text(90), "line": index, "deep": True}, ensure_ascii=False)
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    text = writer.text(80)
    messages = [_assistant(text if index % 3 else None, [call], clean=clean)]
    length = result_length * 3 if index % 2 else result_length
    messages.append({"role": "tool", "tool_call_id": call_id, "content": results.text(length)})
    if index % 6 == 5 and index < ROUNDS - 1:
        messages += [_assistant(writer.text(200), None, clean=clean), _user(writer.text(150), clean=clean)]
    return messages


def _user(text: str, *, clean: bool) -> dict[str, Any]:
    return {"role": "user", "content": text if clean else [{"type": "text", "text": text}]}


def _assistant(text: str | None, calls: list[dict[str, Any]] | None, *, clean: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if not clean:
        message |= {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_name(index: int) -> str:
    return "read_file" if index == 0 else f"tool_{index}"


def _tool(writer: _Writer, index: int, *, clean: bool) -> dict[str, Any]:
    arguments = {"path": "string", "line": "integer", "deep": "boolean", "pattern": "string", "limit": "integer"}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: {"type": kind, "description": writer.text(60)} for name, kind in arguments.items()},
        "required": ["path"],
        "additionalProperties": False,
    }
    function: dict[str, Any] = {"name": _tool_name(index), "description": writer.text(240), "parameters": schema}
    if not clean:
        schema["$schema"] = "http://json-schema.org/draft-07/schema#"
        function["strict"] = True
    return {"type": "function", "function": function}
