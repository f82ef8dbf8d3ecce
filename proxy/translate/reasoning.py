"""Reasoning in a request's history: five spellings come in, one or none goes out."""

from typing import Any

from proxy.translate.chat import Draft, JsonPath
from proxy.translate.options import Options

_FIELDS = ("reasoning", "reasoning_content", "thinking_blocks", "reasoning_details")
_PART_TYPES = ("thinking", "redacted_thinking", "reasoning")


def reasoning_dropped(draft: Draft, _: Options) -> JsonPath | None:
    """Past reasoning is left out: Devstral and tokenizers up to v11 refuse it, even an empty one (Q17)."""
    return _take(draft)[0]


def reasoning_to_field(draft: Draft, _: Options) -> JsonPath | None:
    """Past reasoning goes in the one field `reasoning`, which vLLM from 0.22 hands to the tokenizer (Q17)."""
    before = draft.get("reasoning")
    path, text = _take(draft)
    if text and draft["role"] == "assistant":
        draft["reasoning"] = text
    return None if path == ("reasoning",) and text == before else path


def reasoning_to_chunk(draft: Draft, _: Options) -> JsonPath | None:
    """Past reasoning is a leading `thinking` part, the only form api.mistral.ai takes (Q17)."""
    content = draft.get("content")
    path, text = _take(draft)
    if not text or draft["role"] != "assistant":
        return path
    rest = draft.get("content")
    parts = rest if isinstance(rest, list) else [{"type": "text", "text": rest}] if rest else []
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": text}], "closed": True}
    draft["content"] = [thinking, *parts]
    return None if content == draft["content"] else path


def _take(draft: Draft) -> tuple[JsonPath | None, str]:
    """Remove every form of reasoning from `draft`; return where the first stood, and the text."""
    path: JsonPath | None = None
    texts: list[str] = []
    for field in _FIELDS:
        if field in draft:
            path = path or (field,)
            texts.append(_text(draft.pop(field)))
    parts = draft.get("content")
    if isinstance(parts, list) and any(_is_thinking(part) for part in parts):
        path = path or ("content",)
        if draft["role"] == "assistant":
            texts += [_text(part) for part in parts if _is_thinking(part)]
            draft["content"] = [part for part in parts if not _is_thinking(part)]
        else:  # a system prompt that shows how to think: it is text, in Mistral's own markers
            draft["content"] = [_shown(part) if _is_thinking(part) else part for part in parts]
    # The same thought is often sent in several fields at once: say it once.
    return path, "\n\n".join(dict.fromkeys(text for text in texts if text))


def _is_thinking(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _PART_TYPES


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
