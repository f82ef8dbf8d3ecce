"""
What the demo says: a pure function of the request, token by token.

| the request | what is said |
|---|---|
| no tools, or `tool_choice: none` | `Hello! How can I help you today?` |
| tools, the last message is not a result | a call: a tool the user names, else get_weather, else the first |
| and the word "both" | two calls at once |
| and the word "explain" | a sentence first |
| the last message is a tool result | an answer that quotes the results |
| `response_format` json_object or json_schema | the smallest JSON that fits |
| the word "long", and nothing above | the greeting over and over, beyond the token limit |
| the word "leak", or a server told to | the call as text, as from a server without a tool parser |
| `continue_final_message` | the greeting without what is there already |

Words count in the last user message. Arguments follow the tool's schema; texts in them are names the user wrote
("What is the weather in Paris?" asks for {"city": "Paris"}).
"""

import json
import re
from enum import IntEnum
from typing import Any, Literal, NamedTuple

import msgspec

from proxy.demo.conversation import text_of
from proxy.demo.example import example
from proxy.demo.parameters import Body, token_limit

GREETING = "Hello! How can I help you today?"
EXPLANATION = "I'll look it up.\n\n"
FAVOURITE_TOOL = "get_weather"
DEFAULT_WORD = "Paris"

#: about how many tokens a "long" answer has that nobody limits
_LONG_ANSWER = 256
#: how much of each tool result is quoted, in characters
_QUOTED = 400

_TEXT_TOKENS = re.compile(r"\s*(?:\w+|[^\w\s]+)|\s+")
_JSON_TOKENS = re.compile(r"\s*[^\w\s]+|\w+|\s+")
#: a word with a capital that does not begin a sentence
_NAME = re.compile(r"(?<![.!?])\s[^\w\s]*([A-ZÀ-ÖØ-Þ]\w+)")

Choice = Literal["none", "auto", "required", "named", "null"]


class Kind(IntEnum):
    """What a token is part of."""

    TEXT = 0
    MARK = 1
    NAME = 2
    ARGUMENTS = 3


class Token(NamedTuple):
    """One token: its part, its text, and the number of the call it belongs to."""

    kind: Kind
    text: str
    call: int = 0


class Generation(msgspec.Struct, frozen=True):
    """
    What the model said. `reason` is the engine's own ("tool_calls" is the server's business, see answer.py).

    `parsed` is false for a server without a tool parser: its tokens are all text, call or not.
    """

    tokens: tuple[Token, ...]
    reason: Literal["stop", "length"]
    choice: Choice
    parsed: bool = True
    stop_string: str | None = None

    @property
    def length(self) -> int:
        """The number of tokens, the end of the answer counted as one."""
        return len(self.tokens) + (self.reason == "stop")


def generate(body: Body, *, leak: bool = False) -> Generation:
    """Return what is said to a checked request; with `leak`, calls are said as text."""
    choice, question, limit = tool_choice(body), _last_user_text(body), token_limit(body)
    leaking = leak or "leak" in _words(question)
    calls = _calls(body, choice, question)
    stop_string = None
    if calls:
        tokens = _as_heard(_call_tokens(calls, "explain" in _words(question)), choice, leaking)
    else:
        text, stop_string = _until_stop(_sentence(body, question, limit or _LONG_ANSWER), body.get("stop"))
        tokens = _text_tokens(text)
    ended = limit is None or len(tokens) < limit
    return Generation(
        tokens=tuple(tokens[:limit]),
        reason="stop" if ended else "length",
        choice=choice,
        parsed=not (calls and leaking),
        stop_string=stop_string if ended else None,
    )


def _as_heard(tokens: list[Token], choice: Choice, leaking: bool) -> list[Token]:
    """Return a call's tokens as the server takes them: text without a parser, nothing for `tool_choice: null`."""
    if leaking:
        return [Token(Kind.TEXT, token.text) for token in tokens]
    if choice == "null":
        return [Token(Kind.MARK, token.text) for token in tokens]
    return tokens


def tool_choice(body: Body) -> Choice:
    """Return the kind of choice a checked request makes; `null` beside tools is its own kind: it loses the call."""
    choice = body.get("tool_choice", "auto")
    if not body.get("tools"):
        return "none"
    if choice is None:
        return "null"
    return "named" if isinstance(choice, dict) else choice


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _last_user_text(body: Body) -> str:
    for message in reversed(body["messages"]):
        if message["role"] == "user":
            return text_of(message["content"])
    return ""


# --- calls


def _calls(body: Body, choice: Choice, question: str) -> list[tuple[str, str]]:
    """Return the calls to make, as (name, arguments in JSON)."""
    answering = body["messages"][-1]["role"] in ("tool", "assistant")
    if choice == "none" or (answering and choice in ("auto", "null")):
        return []
    functions = _chosen(body, choice, question)
    several = "both" in _words(question) and body.get("parallel_tool_calls") is not False and choice != "named"
    names = _NAME.findall(question) or [DEFAULT_WORD]
    made = []
    for index, function in enumerate(functions[: 2 if several else 1]):
        word = names[min(index, len(names) - 1)]
        arguments = example({"type": "object", **function["parameters"]}, word)
        made.append((function["name"], json.dumps(arguments, ensure_ascii=False)))
    return made


def _chosen(body: Body, choice: Choice, question: str) -> list[dict[str, Any]]:
    """Return the two functions that would be called first: the best one, and its neighbour (or itself again)."""
    functions = [tool["function"] for tool in body["tools"]]
    names = [function["name"] for function in functions]
    if choice == "named":
        wanted = [body["tool_choice"]["function"]["name"]]
    else:
        wanted = [name for name in names if name in question] + [name for name in names if name == FAVOURITE_TOOL]
    first = names.index(wanted[0]) if wanted else 0
    return [functions[first], functions[(first + 1) % len(functions)]]


def _call_tokens(calls: list[tuple[str, str]], explain: bool) -> list[Token]:
    """Return calls as a v11 tokenizer's model writes them: [TOOL_CALLS]name[ARGS]{…}, one after the other."""
    tokens = _text_tokens(EXPLANATION) if explain else []
    for number, (name, arguments) in enumerate(calls):
        tokens.append(Token(Kind.MARK, "[TOOL_CALLS]", number))
        tokens += [Token(Kind.NAME, piece, number) for piece in re.findall(r"[_-]*[^_-]+|[_-]+", name)]
        tokens.append(Token(Kind.MARK, "[ARGS]", number))
        # vLLM's parser holds the closing bracket back, so it always comes by itself
        pieces = [*_JSON_TOKENS.findall(arguments[:-1]), arguments[-1]]
        tokens += [Token(Kind.ARGUMENTS, piece, number) for piece in pieces]
    return tokens


# --- sentences


def _sentence(body: Body, question: str, limit: int) -> str:
    """Return what is said when nothing is called; a long answer is longer than `limit` tokens."""
    form = body.get("response_format") or {}
    if form.get("type") in ("json_object", "json_schema"):
        return _smallest_json(form.get("json_schema") or {}, question)
    last = body["messages"][-1]
    if last["role"] == "tool":
        return f"The result is: {_quoted_results(body)}"
    if last["role"] == "assistant":
        return GREETING.removeprefix(text_of(last["content"]))
    if "long" in _words(question):
        return " ".join([GREETING] * (limit // len(_text_tokens(GREETING)) + 1))
    return GREETING


def _smallest_json(form: dict[str, Any], question: str) -> str:
    schema = form.get("schema") or {"type": "object"}
    word = (_NAME.findall(question) or [DEFAULT_WORD])[0]
    return json.dumps(example(schema, word), ensure_ascii=False)


def _quoted_results(body: Body) -> str:
    """Return the results at the end of the conversation, each cut to a readable length."""
    texts: list[str] = []
    for message in reversed(body["messages"]):
        if message["role"] != "tool":
            break
        text = text_of(message["content"])
        texts.insert(0, text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")
    return "; ".join(texts)


def _until_stop(text: str, stop: Any) -> tuple[str, str | None]:
    """Return `text` up to the first of the client's stop strings, and that string."""
    found = [(text.find(string), string) for string in ([stop] if isinstance(stop, str) else stop or ())]
    place, string = min(((place, string) for place, string in found if place >= 0), default=(len(text), None))
    return text[:place], string


def _text_tokens(text: str) -> list[Token]:
    return [Token(Kind.TEXT, piece) for piece in _TEXT_TOKENS.findall(text)]
