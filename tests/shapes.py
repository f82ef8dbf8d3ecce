"""
The recorded request shapes, and what the proxy owes each of them.

tests/cases/shapes.jsonl     320 requests that were sent straight to a live vLLM 0.32: `direct` holds the status it
                             answered per mode (mistral-v13 = Mistral tokenizer v13, hf-v13 = its chat template),
                             `errors` the texts
tests/cases/stays_4xx.json   the shapes that must still fail through the proxy, with status, who refuses, and why;
                             every other chat shape must be answered with 200
tests/cases/agents.jsonl     request bodies of real clients
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"
CHAT = "/v1/chat/completions"

#: The server that the shapes were recorded with had this much context; some shapes are about exactly that.
RECORDED_CONTEXT = 4096
_CONTEXT_SHAPES = (
    "max_tokens over context",
    "max_completion_tokens over context",
    "context overflow prompt",
    "context overflow prompt, no max_tokens",
    "prompt + max_tokens over context",
)
_CONTENT_TYPES = {
    "content type text/plain": "text/plain",
    "content type missing": None,
    "content type with charset": "application/json; charset=utf-8",
    "content type vendor +json": "application/vnd.api+json",
}


@dataclass(frozen=True)
class Shape:
    """One request: `request` is a JSON value, or text where the body is not the JSON of a chat request."""

    title: str
    group: str
    method: str
    path: str
    stream: bool
    request: Any
    direct: dict[str, int]

    @property
    def name(self) -> str:
        return f"{self.title} (streamed)" if self.stream else self.title

    @property
    def is_chat(self) -> bool:
        return self.path == CHAT and self.method == "POST"

    @property
    def content_type(self) -> str | None:
        return _CONTENT_TYPES.get(self.title, "application/json")

    def body(self, context: int = RECORDED_CONTEXT) -> bytes:
        """Return the bytes to send to a server with `context` tokens of context."""
        if isinstance(self.request, str):
            # Latin-1 keeps one character per byte: "ÿ" is the byte 0xFF, which is not UTF-8.
            return self.request.encode("latin-1")
        request = self.request
        if self.title in _CONTEXT_SHAPES:
            request = _scaled(request, context // RECORDED_CONTEXT)
        return json.dumps(request, ensure_ascii=False).encode()


@dataclass(frozen=True)
class Expected:
    """The status a shape must get through the proxy; `by` says who refuses it ("" for nobody)."""

    status: int
    by: str = ""
    why: str = ""


def load_shapes() -> list[Shape]:
    rows = map(json.loads, (CASES / "shapes.jsonl").read_text(encoding="utf-8").splitlines())
    fields = ("group", "method", "path", "stream", "request", "direct")
    return [Shape(title=row["name"], **{name: row[name] for name in fields}) for row in rows]


def expected(shape: Shape, mode: str) -> Expected:
    """Return what the table says about the shape in this mode; 200 where it says nothing."""
    row = _STAYS.get(shape.title)
    if row is None or mode not in row.get("modes", (mode,)):
        return Expected(200)
    return Expected(row["status"], row["by"], row["why"])


def legitimate_chats(mode: str) -> list[Shape]:
    """Return the chat shapes that must be answered with 200 in this mode, and whose body is a JSON object."""
    return [s for s in load_shapes() if s.is_chat and s.content_type and expected(s, mode).status == 200]


def load_agents() -> list[dict[str, Any]]:
    """Return the bodies of real clients: name, scenario, body."""
    return [json.loads(line) for line in (CASES / "agents.jsonl").read_text(encoding="utf-8").splitlines()]


def unknown_rows(shapes: Iterable[Shape]) -> set[str]:
    """Return the rows of stays_4xx.json that name no shape."""
    return set(_STAYS) - {shape.title for shape in shapes}


def _scaled(request: dict[str, Any], factor: int) -> dict[str, Any]:
    """Multiply a request's length and token limits, so that it means the same to a server with more context."""
    limits = {k: request[k] * factor for k in ("max_tokens", "max_completion_tokens") if request.get(k, 0) > 1000}
    long_texts = [
        m | {"content": (m["content"] + " ") * factor} if len(m["content"]) > 1000 else m for m in request["messages"]
    ]
    return request | limits | {"messages": long_texts}


_STAYS: dict[str, dict[str, Any]] = json.loads((CASES / "stays_4xx.json").read_text(encoding="utf-8"))
