"""Rules on the order of messages: which role may stand where."""

from collections.abc import Callable
from typing import Any

from msgspec import UNSET, Raw

from proxy.translate.calls import merge_runs, merged
from proxy.translate.chat import Chat, JsonPath
from proxy.wire.chat import (
    Message,
    holds_parts,
    is_blank,
    is_null,
    joined_contents,
    parts_content,
    parts_of,
    text_content,
    visible_text,
)

_EMPTY = Raw(b'""')
_NO_TEXT = (b"null", b'""')


def empty_assistant_removed(chat: Chat) -> JsonPath | None:
    """An assistant message that says nothing and calls nothing is left out: `Invalid assistant message` (Q5)."""
    kept = [message for message in chat.messages if not _says_nothing(message)]
    if len(kept) == len(chat.messages):
        return None
    changed = next(i for i, message in enumerate(chat.messages) if _says_nothing(message))
    chat.messages = kept
    return ("messages", changed)


def _says_nothing(message: Message) -> bool:
    return (
        message.role == "assistant"
        and message.tool_calls is UNSET
        and message.reasoning is UNSET
        and is_blank(message.content)
    )


def images_follow_results(chat: Chat) -> JsonPath | None:
    """Images in tool results are shown by a user message behind them: before v15 a result is text only (Q6)."""
    if not any(message.role == "tool" and holds_parts(message.content) for message in chat.messages):
        return None
    ordered: list[Message] = []
    images: list[Any] = []
    changed: JsonPath | None = None
    for i, message in enumerate(chat.messages):
        if message.role != "tool":
            ordered += _shown(images)
            images = []
        elif holds_parts(message.content):
            message.content = text_content(_without_images(parts_of(message.content), images))
            chat.touch(message)
            changed = changed or ("messages", i, "content")
        ordered.append(message)
    chat.messages = ordered + _shown(images)
    return changed


def _without_images(parts: list[Any], images: list[Any]) -> str:
    """Return the text of `parts` with a line in place of each image, which moves to `images`."""
    lines = []
    for part in parts:
        if part.get("type") == "text":
            lines.append(part["text"])
        else:
            images.append(part)
            lines.append(f"[image {len(images)} attached below]")
    return "\n\n".join(line for line in lines if line)


def _shown(images: list[Any]) -> list[Message]:
    return [Message("user", parts_content(images))] if images else []


def text_before_calls_moved(chat: Chat) -> JsonPath | None:
    """Text beside calls goes in front of the first result: v1 to v3 take one or the other, `but not both` (Q6)."""
    changed: JsonPath | None = None
    for i, message in enumerate(chat.messages):
        if not message.calls or bytes(message.content or b"null") in _NO_TEXT:
            continue
        if not is_blank(message.content):
            result = chat.messages[i + 1]
            before = text_content(f"[assistant before calling the tool] {visible_text(message.content)}")
            result.content = joined_contents([before, result.content])
            chat.touch(result)
        message.content = UNSET
        chat.touch(message)
        changed = changed or ("messages", i, "content")
    return changed


def calls_have_empty_content(chat: Chat) -> JsonPath | None:
    """An assistant turn that only calls has content "", not null: several chat templates join it to text (Q6)."""
    changed: JsonPath | None = None
    for i, message in enumerate(chat.messages):
        if message.calls and (message.content is UNSET or is_null(message.content)):
            message.content = _EMPTY
            chat.touch(message)
            changed = changed or ("messages", i, "content")
    return changed


def leading_systems_to_one(chat: Chat) -> JsonPath | None:
    """System messages at the start are one: chat templates know a single, optional system message (Q12)."""
    lead = _leading_systems(chat)
    if lead < 2:
        return None
    chat.messages[:lead] = [merged(chat, chat.messages[:lead])]
    return ("messages", 1)


def _leading_systems(chat: Chat) -> int:
    return next((i for i, message in enumerate(chat.messages) if message.role != "system"), len(chat.messages))


def late_system_to_user(chat: Chat) -> JsonPath | None:
    """A system message after the start becomes a user message: templates refuse or ignore it (Q12)."""
    lead = _leading_systems(chat)
    return _systems_to_user(chat, lambda i: i >= lead)


def misplaced_system_to_user(chat: Chat) -> JsonPath | None:
    """A system message after an assistant or a tool becomes a user message: `Unexpected role 'system'` (Q12)."""
    return _systems_to_user(chat, lambda i: i > 0 and chat.messages[i - 1].role in ("assistant", "tool"))


def _systems_to_user(chat: Chat, is_misplaced: Callable[[int], bool]) -> JsonPath | None:
    # In place and not hoisted: what came before stays byte for byte, and so does the prefix cache.
    changed: JsonPath | None = None
    for i, message in enumerate(chat.messages):
        if message.role == "system" and is_misplaced(i):
            chat.messages[i] = Message("user", text_content(f"<system>\n{visible_text(message.content)}\n</system>"))
            changed = changed or ("messages", i, "role")
    return changed


def late_system_hoisted(chat: Chat) -> JsonPath | None:
    """A system message after the start joins the leading one, for operators who prefer it to a user turn (Q12)."""
    lead = _leading_systems(chat)
    late = [i for i, message in enumerate(chat.messages) if i >= lead and message.role == "system"]
    if not late:
        return None
    hoisted = [chat.messages[i] for i in late]
    rest = [message for message in chat.messages[lead:] if message.role != "system"]
    chat.messages = [*chat.messages[:lead], *hoisted, *rest]
    leading_systems_to_one(chat)
    return ("messages", late[0])


def same_role_merged(chat: Chat) -> JsonPath | None:
    """Neighbours of one role are one message: templates demand that user and assistant alternate (Q13)."""
    return merge_runs(chat, _same_speaker)


def _same_speaker(first: Message, second: Message) -> bool:
    return first.role == second.role != "tool" and not (first.calls or second.calls)


def bridge_tool_to_user(chat: Chat) -> JsonPath | None:
    """A short assistant turn stands between a result and a user: `Unexpected role 'user' after role 'tool'` (Q14)."""
    bridged: list[Message] = []
    changed: JsonPath | None = None
    for i, message in enumerate(chat.messages):
        if message.role == "user" and bridged and bridged[-1].role == "tool":
            bridged.append(Message("assistant", text_content(chat.options.bridge_text)))
            changed = changed or ("messages", i)
        bridged.append(message)
    chat.messages = bridged
    return changed


def user_before_assistant(chat: Chat) -> JsonPath | None:
    """A user message stands before an assistant that came first: all mistral-common miscount calls there (Q15)."""
    return _insert_user(chat, 0) if not chat.messages or chat.messages[0].role == "assistant" else None


def user_comes_first(chat: Chat) -> JsonPath | None:
    """After the system message comes a user: templates demand it, and the hosted API refuses system alone (Q15)."""
    lead = _leading_systems(chat)
    return None if lead < len(chat.messages) and chat.messages[lead].role == "user" else _insert_user(chat, lead)


def user_beside_tools(chat: Chat) -> JsonPath | None:
    """Tools need a user message to stand at: tokenizers from v13 write them before the first one (Q15)."""
    if not chat.tools or any(message.role == "user" for message in chat.messages):
        return None
    return _insert_user(chat, _leading_systems(chat))


def _insert_user(chat: Chat, at: int) -> JsonPath:
    path: JsonPath = ("messages", at) if at < len(chat.messages) else ("messages",)
    chat.messages.insert(at, Message("user", text_content(chat.options.first_user_text)))
    return path


def prefix_to_continue(chat: Chat) -> JsonPath | None:
    """An assistant message to go on from needs two vLLM parameters; `prefix` is ignored there (Q16, H6)."""
    if not _wants_continuation(chat):
        return None
    cleared = _clear_prefix(chat)
    if chat.read("continue_final_message") is True and chat.read("add_generation_prompt") is False:
        return cleared
    chat.members["continue_final_message"] = True
    chat.members["add_generation_prompt"] = False
    return ("messages", len(chat.messages) - 1)


def continue_to_prefix(chat: Chat) -> JsonPath | None:
    """An assistant message to go on from is marked `prefix` at api.mistral.ai, which repeats it in the answer (Q16)."""
    if not _wants_continuation(chat):
        return None
    last = chat.messages[-1]
    flags = chat.drop("continue_final_message", "add_generation_prompt")
    chat.echoed_prefix = visible_text(last.content)
    if last.prefix is True and not flags:
        return None
    last.prefix = True
    chat.touch(last)
    return ("messages", len(chat.messages) - 1)


def continue_every_trailing(chat: Chat) -> JsonPath | None:
    """A trailing assistant message is always gone on from, for operators whose clients mean that (Q16)."""
    if not _ends_with_assistant(chat) or _wants_continuation(chat):
        return None
    chat.messages[-1].prefix = True
    chat.touch(chat.messages[-1])
    return ("messages", len(chat.messages) - 1)


def user_after_trailing_assistant(chat: Chat) -> JsonPath | None:
    """A trailing assistant message is followed by a user: `Expected last role User or Tool` (Q16)."""
    if not _ends_with_assistant(chat) or _wants_continuation(chat):
        return None
    chat.messages.append(Message("user", text_content(chat.options.continue_text)))
    return ("messages", len(chat.messages) - 2)


def stray_continuation_removed(chat: Chat) -> JsonPath | None:
    """Marks and parameters for going on from an assistant message go when it is not, or no longer, the last (Q16)."""
    wanted = _wants_continuation(chat)
    changed = _clear_prefix(chat, keep_last=wanted)
    # With a client that ended with a user and asks to go on from there, the server has the last word.
    if wanted or chat.ended_with != "assistant":
        return changed
    dropped = chat.drop("continue_final_message", "add_generation_prompt")
    return changed or dropped


def _ends_with_assistant(chat: Chat) -> bool:
    return bool(chat.messages) and chat.messages[-1].role == "assistant" and not chat.messages[-1].calls


def _wants_continuation(chat: Chat) -> bool:
    if not _ends_with_assistant(chat):
        return False
    return chat.messages[-1].prefix is True or chat.read("continue_final_message") is True


def _clear_prefix(chat: Chat, *, keep_last: bool = False) -> JsonPath | None:
    changed: JsonPath | None = None
    last = chat.messages[-1] if chat.messages and keep_last else None
    for i, message in enumerate(chat.messages):
        if message.prefix is not UNSET and message is not last:
            message.prefix = UNSET
            chat.touch(message)
            changed = changed or ("messages", i, "prefix")
    return changed
