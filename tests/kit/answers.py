"""What the kit's model server answers, as vLLM would; the pieces are those of tests/fakes.py."""

from typing import Any, Final

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, completion, event, text_chunk

USAGE: Final = {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}

FIRST_PART: Final = text_chunk("", role="assistant")
LAST_PART: Final = text_chunk("", finish="stop")
USAGE_PART: Final = {**text_chunk(), "choices": [], "usage": USAGE}


def part(delta: dict[str, Any], *, finish: str | None = None) -> dict[str, Any]:
    """A chat.completion.chunk with this delta."""
    made = text_chunk(finish=finish)
    made["choices"][0]["delta"] = delta
    return made


def stream(*parts: dict[str, Any], usage: bool = False) -> bytes:
    """A whole streamed answer of these chunks."""
    return STREAM_HEAD + b"".join(map(event, [*parts, *([USAGE_PART] if usage else [])])) + DONE + STREAM_END


def text_stream(*texts: str, usage: bool = False) -> bytes:
    """A whole streamed answer of these texts."""
    return stream(FIRST_PART, *map(text_chunk, texts), LAST_PART, usage=usage)


def call(number: int, name: str, arguments: str) -> dict[str, Any]:
    """A tool call of a whole message; its id has nine letters or digits, as Mistral's have."""
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    """A chat.completion that calls these tools."""
    made = completion()
    [choice] = made["choices"]
    choice["message"] |= {"content": None, "tool_calls": list(calls)}
    choice["finish_reason"] = "tool_calls"
    return made
