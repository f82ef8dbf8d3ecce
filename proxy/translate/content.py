"""Rules on the content of one message: parts, attachments, null."""

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from msgspec import UNSET

from proxy.errors import InvalidRequest
from proxy.translate.chat import Draft, JsonPath
from proxy.translate.options import Options
from proxy.wire.chat import encode

Part = dict[str, Any]

#: Text under another name, and the key it stands under.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

#: Images under three names, and attachments: any of the keys must be there for it to be one.
_IMAGE_PARTS = {"image_url": ("image_url",), "input_image": ("image_url",), "image": ("image_url", "source")}
_FILE_PARTS = {
    "file": ("file", "file_id", "file_data"),
    "input_file": ("file_data", "file_url", "file_id"),
    "document": ("source",),
    "document_url": ("document_url",),
    "video_url": ("video_url",),
    "input_audio": ("input_audio",),
}

#: Attachments that api.mistral.ai takes, in its own form only.
#: Source: mistralai 3.7.0, ContentChunk.
_HOSTED_PARTS = {
    "document_url": "document_url",
    "file": "file_id",
    "input_audio": "input_audio",
    "reference": "reference_ids",
}

_TEXT_URL = ("data:text/", "data:application/json", "data:application/xml")


def known_part_names(draft: Draft, _: Options) -> JsonPath | None:
    """
    Parts are `text` or `image_url` with no other keys: `input_text`, bare strings, `cache_control` go (Q6).

    Raises:
        InvalidRequest: a part is neither an object nor a string, or its text is no text.
    """
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
    if kind is None:  # vLLM reads such a part by its keys
        kind = next((key for key in ("text", "image_url", "refusal") if key in part), None)
    if not isinstance(kind, str):
        return part
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": _text_of(part, _TEXT_PARTS[kind], index)}
    if kind in _IMAGE_PARTS and (url := _image_url(part)):
        return {"type": "image_url", "image_url": {"url": url}}
    return part


def _text_of(part: Part, key: str, index: int) -> str:
    text = part.get(key)
    if not (text is None or isinstance(text, str)):
        raise InvalidRequest("The text of a part must be a string.", param=f"content[{index}].{key}")
    return text or ""


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
    return _unreadable_to_text(draft, options, {})


def foreign_attachment_to_text(draft: Draft, options: Options) -> JsonPath | None:
    """A part that is none of api.mistral.ai's own stays visible as a line of text, or as the text it carries (Q6)."""
    return _unreadable_to_text(draft, options, {} if draft["role"] == "system" else _HOSTED_PARTS)


def _unreadable_to_text(draft: Draft, options: Options, files: Mapping[str, str]) -> JsonPath | None:
    parts = draft.get("content")
    if not isinstance(parts, list):
        return None
    sees_images = options.vision and draft["role"] in ("user", "tool")
    changed: JsonPath | None = None
    for i, part in enumerate(parts):
        kind = part.get("type")
        is_image = kind == "image_url" and sees_images and _image_url(part) is not None
        is_file = isinstance(kind, str) and kind in files and bool(part.get(files[kind]))
        if not (is_image or is_file or kind in ("text", "thinking")):
            parts[i] = {"type": "text", "text": _carried_text(part) or _placeholder(part)}
            changed = changed or ("content", i)
    return changed


def _placeholder(part: Part) -> str:
    kind = part.get("type")
    return f"[unsupported attachment: {kind if isinstance(kind, str) else 'unknown'} {_file_name(part)}".rstrip() + "]"


def _holders(part: Part) -> list[Part]:
    """Where a part keeps what it carries: in itself or in an object under any key (`file`, `source`)."""
    return [part, *(value for value in part.values() if isinstance(value, dict))]


def _file_name(part: Part) -> str:
    for holder in _holders(part):
        for key in ("filename", "file_name", "name", "title", "file_id", "document_name"):
            if isinstance(holder.get(key), str):
                return str(holder[key])[:200]
    return ""


def _carried_text(part: Part) -> str | None:
    """The text inside a part, under the name of its file if it has one; None if it carries none."""
    for holder in _holders(part):
        text = _data_url_text(holder.get("file_data"))
        if text is None and holder.get("type") == "text":
            text = _inner_text(holder.get("data"))
        text = text or _inner_text(holder.get("text")) or _inner_text(holder.get("content"))
        if text:
            name = _file_name(part)
            return f"{name}:\n{text}" if name else text
    return None


def _inner_text(value: Any) -> str:
    if isinstance(value, list):
        return "\n\n".join(filter(None, map(_inner_text, value)))
    if isinstance(value, dict):
        return _inner_text(value.get("text") or value.get("content"))
    return value if isinstance(value, str) else ""


def _data_url_text(url: Any) -> str | None:
    if not isinstance(url, str) or not url.startswith(_TEXT_URL):
        return None
    head, _, body = url.partition(",")
    try:
        return base64.b64decode(body, validate=True).decode() if head.endswith(";base64") else unquote(body)
    except ValueError:  # neither base64 nor UTF-8
        return None


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
    if isinstance(content, list) and all(_is_part(item) for item in content):
        return None
    draft["content"] = encode(content).decode()
    return ("content",)


def _is_part(item: Any) -> bool:
    """Tell a content part from data: [{"type": "file", "path": "a.txt"}] is a tool's own list."""
    if not isinstance(item, dict):
        return isinstance(item, str)
    kind = item.get("type")
    if not isinstance(kind, str):
        return False
    if kind in _TEXT_PARTS:
        key = _TEXT_PARTS[kind]
        return key in item and isinstance(item[key], str | None)
    return any(key in item for key in (_IMAGE_PARTS | _FILE_PARTS).get(kind, ()))


def null_content_to_empty(draft: Draft, _: Options) -> JsonPath | None:
    """Null or absent content is "" outside assistant turns: vLLM 0.32 refuses null there (Q6, H3)."""
    if draft["role"] == "assistant" or draft.get("content") is not None:
        return None
    draft["content"] = ""
    return ("content",)
