"""Rules on the content of one message: parts, attachments, null."""

import base64
import binascii
from typing import Any

from msgspec import UNSET

from proxy.errors import InvalidRequest
from proxy.translate.chat import Draft, JsonPath
from proxy.translate.options import Options
from proxy.wire.chat import encode

Part = dict[str, Any]

#: Text under another name, and the key it stands under.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

#: Parts that some Mistral server takes in a user message; all others become a placeholder.
_KNOWN_PARTS = frozenset({"text", "image_url", "thinking"})

_INLINE_TEXT_LIMIT = 1 << 20


def known_part_names(draft: Draft, _: Options) -> JsonPath | None:
    """Parts are `text` or `image_url` with no other keys: `input_text`, bare strings, `cache_control` go (Q6)."""
    parts = draft.get("content")
    if not isinstance(parts, list):
        return None
    changed: JsonPath | None = None
    for i, part in enumerate(parts):
        known = _known_part(part, i)
        if known != part:
            parts[i] = known
            changed = changed or ("content", i)
    return changed


def _known_part(part: Any, index: int) -> Part:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise InvalidRequest("A content part must be an object or a string.", param=f"content[{index}]")
    kind = part.get("type")
    if kind is None and isinstance(part.get("text"), str):
        kind = "text"
    if kind in _TEXT_PARTS:
        text = part.get(_TEXT_PARTS[kind])
        return {"type": "text", "text": text if isinstance(text, str) else ""}
    if kind in ("image_url", "input_image", "image"):
        url = _image_url(part)
        return {"type": "image_url", "image_url": {"url": url}} if url else part
    return part


def _image_url(part: Part) -> str | None:
    image = part.get("image_url", UNSET)
    if isinstance(image, dict):
        image = image.get("url")
    source = part.get("source")
    if isinstance(source, dict):  # Anthropic's form
        data, kind = source.get("data"), source.get("media_type")
        image = source.get("url") or (f"data:{kind};base64,{data}" if data else None)
    return image if isinstance(image, str) and image else None


def attachment_to_text(draft: Draft, options: Options) -> JsonPath | None:
    """A part that this upstream cannot read stays visible as a line of text, or as the text it carries (Q6)."""
    parts = draft.get("content")
    if not isinstance(parts, list):
        return None
    readable = _KNOWN_PARTS if options.vision and draft["role"] in ("user", "tool") else _KNOWN_PARTS - {"image_url"}
    changed: JsonPath | None = None
    for i, part in enumerate(parts):
        if part.get("type") not in readable:
            parts[i] = {"type": "text", "text": _inline_text(part) or _placeholder(part)}
            changed = changed or ("content", i)
    return changed


def _placeholder(part: Part) -> str:
    kind = part.get("type")
    return f"[unsupported attachment: {kind if isinstance(kind, str) else 'unknown'} {_file_name(part)}".rstrip() + "]"


def _file_name(part: Part) -> str:
    for holder in (part, *(value for value in part.values() if isinstance(value, dict))):
        for key in ("filename", "file_name", "name", "title", "file_id", "document_name"):
            if isinstance(holder.get(key), str):
                return str(holder[key])[:200]
    return ""


def _inline_text(part: Part) -> str | None:
    """The text that a file part carries as a text/* data URL, or as plain text; None if it carries none."""
    holder = next((value for value in part.values() if isinstance(value, dict)), part)
    data = holder.get("file_data")
    if holder.get("type") == "text" and isinstance(holder.get("data"), str):
        return str(holder["data"])
    if not isinstance(data, str) or not data.startswith("data:text/") or len(data) > _INLINE_TEXT_LIMIT:
        return None
    head, _, body = data.partition(",")
    try:
        text = base64.b64decode(body, validate=True).decode() if head.endswith(";base64") else body
    except (binascii.Error, UnicodeDecodeError):
        return None
    name = _file_name(part)
    return f"{name}:\n{text}" if name else text


def text_parts_to_string(draft: Draft, _: Options) -> JsonPath | None:
    """A list that holds only text is one string, joined as mistral-common joins it; empty parts go (Q6)."""
    parts = draft.get("content")
    if not isinstance(parts, list):
        return None
    kept = [part for part in parts if part.get("type") != "text" or part["text"]]
    if any(part.get("type") != "text" for part in kept):
        if len(kept) == len(parts):
            return None
        draft["content"] = kept
    else:
        draft["content"] = "\n\n".join(part["text"] for part in kept)
    return ("content",)


def json_result_to_text(draft: Draft, _: Options) -> JsonPath | None:
    """A tool result that is a JSON value and not text or parts is sent as its JSON text; vLLM refuses it (Q6)."""
    content = draft.get("content")
    if draft["role"] != "tool" or content is None or isinstance(content, str):
        return None
    if isinstance(content, list) and all(_looks_like_part(part) for part in content):
        return None
    draft["content"] = encode(content).decode()
    return ("content",)


def _looks_like_part(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("type"), str))


def null_content_to_empty(draft: Draft, _: Options) -> JsonPath | None:
    """Null or absent content is "" outside assistant turns: vLLM 0.32 refuses null there (Q6, H3)."""
    if draft["role"] == "assistant" or draft.get("content") is not None:
        return None
    draft["content"] = ""
    return ("content",)
