"""Reasoning in a request's history: five spellings come in, one or none goes out."""

from typing import Any, NamedTuple

from proxy.translate.chat import Draft, JsonPath
from proxy.translate.options import Options

_FIELDS = ("reasoning", "reasoning_content", "thinking_blocks", "reasoning_details")
_PART_TYPES = ("thinking", "redacted_thinking", "reasoning")


class _Taken(NamedTuple):
    """Reasoning that was taken out of a message: where each form stood, texts of fields, and parts."""

    paths: list[JsonPath]
    texts: list[str]
    parts: list[dict[str, Any]]


def reasoning_dropped(draft: Draft, _: Options) -> JsonPath | None:
    """Past reasoning is left out: Devstral and tokenizers up to v11 refuse it, even an empty one (Q17)."""
    return next(iter(_take(draft).paths), None)


def reasoning_to_field(draft: Draft, _: Options) -> JsonPath | None:
    """Past reasoning goes in the one field `reasoning`, which vLLM from 0.22 hands to the tokenizer (Q17)."""
    before = draft.get("reasoning")
    paths, texts, parts = _take(draft)
    # The same thought is often sent in several fields at once: say it once.
    text = "\n\n".join(dict.fromkeys(filter(str.strip, (*texts, *map(_text, parts)))))
    if text and draft["role"] == "assistant":
        draft["reasoning"] = text
    is_same = paths == [("reasoning",)] and draft.get("reasoning") == before
    return None if is_same or not paths else paths[0]


def reasoning_to_chunk(draft: Draft, _: Options) -> JsonPath | None:
    """Past reasoning is in `thinking` parts before the text, the only form that api.mistral.ai takes (Q17)."""
    if draft["role"] != "assistant":
        return next(iter(_take(draft).paths), None)
    paths, texts = _take_fields(draft)
    content = draft.get("content")
    parts = content if isinstance(content, list) else []
    known = [_chunk(part) if _is_thinking(part) else part for part in parts if not _is_empty_thought(part)]
    said = {_text(part) for part in known if _is_thinking(part)}
    new = [_chunk({"thinking": text}) for text in dict.fromkeys(texts) if text.strip() and text not in said]
    if new:
        said_text = [{"type": "text", "text": content}] if isinstance(content, str) and content else []
        draft["content"] = [*new, *(known or said_text)]
    elif known != parts:
        draft["content"] = known
    is_same = not paths and draft.get("content") == content
    return None if is_same else paths[0] if paths else ("content",)


def _chunk(part: dict[str, Any]) -> dict[str, Any]:
    thinking = part.get("thinking")
    if not isinstance(thinking, list):
        thinking = [{"type": "text", "text": _text(part)}]
    chunk = {"type": "thinking", "thinking": thinking, "closed": part.get("closed") is not False}
    # Who signed a thought wants to see the signature again.
    return chunk | {"signature": part["signature"]} if isinstance(part.get("signature"), str) else chunk


def _take_fields(draft: Draft) -> tuple[list[JsonPath], list[str]]:
    fields = [field for field in _FIELDS if field in draft]
    return [(field,) for field in fields], [_text(draft.pop(field)) for field in fields]


def _take(draft: Draft) -> _Taken:
    """Remove every form of reasoning from `draft`."""
    taken = _Taken(*_take_fields(draft), [])
    parts = draft.get("content")
    if isinstance(parts, list) and any(_is_thinking(part) for part in parts):
        taken.paths.append(("content",))
        if draft["role"] == "assistant":
            taken.parts.extend(part for part in parts if _is_thinking(part))
            draft["content"] = [part for part in parts if not _is_thinking(part)]
        else:  # a system prompt that shows how to think: it is text, in Mistral's own markers
            draft["content"] = [_shown(part) if _is_thinking(part) else part for part in parts]
    return taken


def _is_thinking(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _PART_TYPES


def _is_empty_thought(part: Any) -> bool:
    return _is_thinking(part) and not _text(part).strip()


def _shown(part: Any) -> dict[str, str]:
    return {"type": "text", "text": f"[THINK]{_text(part)}[/THINK]"}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_text(item) for item in value)
    if isinstance(value, dict):
        return next((_text(value[key]) for key in ("thinking", "text", "summary", "content") if value.get(key)), "")
    return ""
