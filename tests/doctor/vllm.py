"""
A vLLM whose answers a test chooses, path by path, over real sockets.

    async with Vllm() as vllm: ...                         # all is well: 0.32.0, Mistral's tokenizer, a tool parser
    async with Vllm({"/version": whole({"version": "0.12.0"})}) as vllm: ...
"""

import email.utils
import json
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Request, Script, ScriptedUpstream, event, head, whole

CHAT = "/v1/chat/completions"
#: What a path is answered with: bytes, a script, or a function of the request that returns one of them.
Reply = bytes | Script | Callable[[Request], Any]

ARGUMENTS = '{"city": "Paris"}'
LEAKED = f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}"


class Vllm(ScriptedUpstream):
    """`replies` change what single paths answer; what no path answers is FastAPI's 404."""

    def __init__(self, replies: Mapping[str, Reply] | None = None) -> None:
        super().__init__(health=None)
        self.replies: dict[str, Reply] = {
            "/version": dated({"version": "0.32.0"}),
            "/health": head(content_length="0"),
            "/v1/models": dated({"data": [{"id": "devstral", "max_model_len": 131_072}]}),
            "/tokenize": mistral_tokenizer,
            CHAT: chat,
            **(replies or {}),
        }

    def next_script(self) -> Script:
        """Answer the last request by its path."""
        request = self.requests[-1]
        reply = self.replies.get(request.target, whole({"detail": "Not Found"}, 404))
        if callable(reply):
            reply = reply(request)
        return [reply] if isinstance(reply, bytes) else reply

    def sent_to(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.target == path]


def dated(body: Any, status: int = 200, *, ahead_s: float = 0) -> bytes:
    """A complete answer with a Date."""
    return whole(body, status, date=email.utils.formatdate(time.time() + ahead_s, usegmt=True))


def refusal(message: str, status: int = 400) -> bytes:
    """An error as vLLM words it."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return whole({"error": error}, status)


# --- /tokenize


def _tokens(request: Request) -> bytes:
    return whole({"count": len(request.body), "max_model_len": 131_072, "tokens": []})


def mistral_tokenizer(request: Request) -> bytes:
    """mistral-common 1.12: no system message behind an assistant, and no assistant at the end."""
    roles = [message["role"] for message in request.json["messages"]]
    if ("assistant", "system") in pairwise(roles):
        return refusal("Unexpected role 'system' after role 'assistant'")
    if roles[-1] == "assistant":
        return refusal("Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant")
    return _tokens(request)


def chat_template(request: Request) -> bytes:
    """The classic template: user and assistant alternate."""
    roles = [message["role"] for message in request.json["messages"] if message["role"] != "system"]
    if ("user", "user") in pairwise(roles):
        return refusal("After the optional system message, conversation roles must alternate user/assistant/user/...")
    return _tokens(request)


# --- /v1/chat/completions


def chat(request: Request) -> bytes:
    """A call for a question with tools, and text for everything else."""
    return answer(request, call=asks_for_call(request))


def leaking(request: Request) -> bytes:
    """The same without a tool parser: the call is text."""
    return answer(request, text=LEAKED) if asks_for_call(request) else answer(request)


def asks_for_call(request: Request) -> bool:
    body = request.json
    return bool(body.get("tools")) and body["messages"][-1]["role"] == "user"


def answer(request: Request, *, text: str = "It is sunny.", call: bool = False, **message: Any) -> bytes:
    """One answer, whole or streamed as the request asks; `message` has further fields of it."""
    function = {"name": "get_weather", "arguments": ARGUMENTS}
    calls = [{"id": "abcdefgh1", "type": "function", "function": function}] if call else []
    said = {"role": "assistant", "content": None if call else text, **message}
    reason = "tool_calls" if call else "stop"
    if request.json.get("stream"):
        return _streamed(said | ({"tool_calls": [{"index": 0, **calls[0]}]} if call else {}), reason)
    choice = {"index": 0, "message": said | {"tool_calls": calls}, "finish_reason": reason}
    return whole(_object("chat.completion") | {"choices": [choice], "usage": USAGE})


USAGE = {"prompt_tokens": 9, "total_tokens": 21, "completion_tokens": 12}


def _streamed(delta: dict[str, Any], reason: str) -> bytes:
    frame = _object("chat.completion.chunk")
    choices = [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
        {"index": 0, "delta": {name: value for name, value in delta.items() if name != "role"}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": reason},
    ]
    events = [event(frame | {"choices": [choice]}) for choice in choices]
    return STREAM_HEAD + b"".join(events) + event(frame | {"choices": [], "usage": USAGE}) + DONE + STREAM_END


def _object(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "devstral"}


def texts_of(check: dict[str, Any]) -> str:
    """Everything that a check says, as one text."""
    return json.dumps(check, ensure_ascii=False)
