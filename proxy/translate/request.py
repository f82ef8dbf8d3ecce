"""
A client's body becomes an upstream's body: decode once, run the rules, encode once.

Pure and deterministic: the same body always gives the same bytes (prompt caches depend on it), and rules find
nothing to do on their own output. What no rule touched goes out as the bytes that came in. What is remembered
between requests (`plan`) makes them cheaper and changes nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from proxy.errors import InvalidRequest
from proxy.translate.chat import Chat, Rule
from proxy.translate.expectation import Expectation, ToolChoice
from proxy.translate.options import Options
from proxy.translate.plan import MOST_MESSAGES, plan_for
from proxy.translate.profile import Profile
from proxy.translate.reading import RuleLog, read_message
from proxy.translate.sampling import wants_stream
from proxy.translate.steps import Watch, WatchedChat, watched_message
from proxy.wire.body import check_utf8, decode_body, refuse_bad_utf8, refuse_repeated_keys, split_messages
from proxy.wire.chat import Message, encode

#: Returns a message in canonical form, and whether its text says just that, as `read_message` does.
ReadMessage = Callable[[Raw, int], tuple[Message, bool]]


class UpstreamRequest(msgspec.Struct, frozen=True):
    """
    A body that may go upstream. Only `translate_request` makes one.

    `stream` is what the client asked for, `upstream_stream` what the upstream is asked for.
    `rules_applied` names the rules that changed something, in order, each once.
    """

    body: bytes
    model: str
    stream: bool
    upstream_stream: bool
    rules_applied: tuple[str, ...]
    expectation: Expectation


def translate_request(body: bytes, profile: Profile, *, strict: bool = False, user_agent: str = "") -> UpstreamRequest:
    """
    Translate one chat request. `user_agent` is the client's, "" if it named none.

    Raises:
        InvalidRequest: the body cannot be translated, or `strict` is set and a rule would change it.
            `param` is the JSON path.
    """
    try:
        return _translated(body, profile, profile.options_for(user_agent), RuleLog(strict))
    except (InvalidRequest, UnicodeDecodeError):
        refuse_bad_utf8(body)  # first of all errors, wherever it was met
        raise
    except RecursionError:
        refuse_bad_utf8(body)
        # Every decoder has a limit of its own; this is for what passed it and was too deep for a rule.
        raise InvalidRequest("The body is nested too deeply.", param="$") from None


def translate_step_by_step(
    body: bytes, profile: Profile, watch: Watch, *, strict: bool = False, user_agent: str = ""
) -> UpstreamRequest:
    """
    Return what `translate_request` does, and hand each change to `watch` when it has been made.

    Slow, for people: no shortcut is taken, and the body is written out after every rule.

    Raises:
        InvalidRequest: as `translate_request`; `watch` has the changes that were made before.
    """
    try:
        return _watched(body, profile, profile.options_for(user_agent), RuleLog(strict), watch)
    except (InvalidRequest, UnicodeDecodeError, RecursionError):
        translate_request(body, profile, strict=strict, user_agent=user_agent)  # it knows what to say
        raise


def asked_whole(request: UpstreamRequest) -> UpstreamRequest:
    """Return the same request asking the upstream for a whole answer instead of a stream (R4)."""
    members: dict[str, Any] = dict(decode_body(request.body))
    members["stream"] = False
    members.pop("stream_options", None)
    return msgspec.structs.replace(request, body=encode(members), upstream_stream=False)


def token_question(request: UpstreamRequest) -> bytes:
    """Return what vLLM's /tokenize is asked for the prompt of a request (vLLM 0.32, TokenizeChatRequest)."""
    members = decode_body(request.body)
    return encode({name: members[name] for name in _OF_THE_PROMPT if name in members})


#: What of a request its prompt is made of.
_OF_THE_PROMPT = (
    *("model", "messages", "tools", "add_generation_prompt", "continue_final_message"),
    *("chat_template", "chat_template_kwargs"),
)


def with_stop_reason(request: UpstreamRequest) -> UpstreamRequest:
    """Return the same request, of whose answer vLLM's own keys are kept: one tells which sequence ended it."""
    options = msgspec.structs.replace(request.expectation.options, strip_vendor_fields=False)
    expectation = msgspec.structs.replace(request.expectation, options=options)
    return msgspec.structs.replace(request, expectation=expectation)


def _translated(body: bytes, profile: Profile, options: Options, log: RuleLog) -> UpstreamRequest:
    members = decode_body(body)
    raw_messages = split_messages(members.get("messages", Raw(b"null")))
    chat = Chat(members, options)
    _check_model(chat)
    if not profile.rules:
        return _passed_through(body, chat, raw_messages)
    if log.is_strict or len(raw_messages) > MOST_MESSAGES:
        _read_plainly(body, chat, raw_messages, lambda raw, i: read_message(raw, i, profile, log))
        rules = profile.rules
    else:
        rules = _read_by_plan(body, chat, raw_messages, profile, log)
    for rule in rules:
        path = rule(chat)
        if path is None and chat.offer is not None:
            path = chat.offer.changed.get(rule)
        if path is not None:
            log.ran(rule, path)
    return _encoded(chat, log)


def _watched(body: bytes, profile: Profile, options: Options, log: RuleLog, watch: Watch) -> UpstreamRequest:
    members = decode_body(body)
    raws = split_messages(members.get("messages", Raw(b"null")))
    chat = Chat(members, options)
    _check_model(chat)
    if not profile.rules:
        return _passed_through(body, chat, raws)
    _read_plainly(body, chat, raws, lambda raw, i: watched_message(raw, i, profile, log, watch))
    watched = WatchedChat(chat, watch)
    for rule in profile.rules:
        log.ran(rule, watched.run(rule))
    request = _encoded(chat, log)
    watched.end(request.body)
    return request


def _read_plainly(body: bytes, chat: Chat, raws: list[Raw], read: ReadMessage) -> None:
    """Read each message into an object; all rules are to run. `_read_by_plan` gives the same result."""
    check_utf8(body)
    for i, raw in enumerate(raws):
        message, is_as_it_came = read(raw, i)
        if is_as_it_came:
            chat.keep_source(message, raw)
        chat.messages.append(message)
    chat.ended_with = chat.messages[-1].role


def _read_by_plan(body: bytes, chat: Chat, raws: list[Raw], profile: Profile, log: RuleLog) -> tuple[Rule, ...]:
    """Take what is known of messages and tools by their bytes; run the rules that may find something to do."""
    plan = plan_for(profile)
    if not body.isascii():  # of messages and tools only what is new has to be checked
        for name, raw in chat.members.items():
            if name not in ("messages", "tools"):
                check_utf8(bytes(raw))
    plan.read_messages(chat, raws, log)
    return plan.rules_for(chat)


def _check_model(chat: Chat) -> None:
    """
    Raises:
        InvalidRequest: `model` is not a string. Absent and null mean the server's only model.
    """
    model = chat.read("model")
    if not (model is UNSET or model is None or isinstance(model, str)):
        raise InvalidRequest("`model` must be a string.", param="model")


def _passed_through(body: bytes, chat: Chat, raws: list[Raw]) -> UpstreamRequest:
    check_utf8(body)
    for i, raw in enumerate(raws):
        refuse_repeated_keys(bytes(raw), f"messages[{i}]")
    stream = wants_stream(chat)
    expectation = Expectation(
        options=chat.options,
        model=_model(chat),
        stream=stream,
        usage_wanted=True,
        max_tokens=_max_tokens(chat),
        choices=_choices(chat),
    )
    return UpstreamRequest(body, expectation.model, stream, stream, (), expectation)


def _encoded(chat: Chat, log: RuleLog) -> UpstreamRequest:
    expectation = _expectation(chat)
    upstream_stream = _transport(chat, expectation.stream)
    members = chat.members
    members["messages"] = chat.wire_messages()
    if chat.tools and chat.offer is not None and chat.tools is chat.offer.tools:
        members["tools"] = chat.offer.text
    elif chat.tools:
        members["tools"] = [tool.draft if tool.is_touched else tool.raw for tool in chat.tools]
    return UpstreamRequest(
        encode(members), expectation.model, expectation.stream, upstream_stream, tuple(log.names), expectation
    )


def _expectation(chat: Chat) -> Expectation:
    stream_options = chat.read("stream_options")
    names = _tool_names(chat)
    return Expectation(
        options=chat.options,
        model=_model(chat),
        stream=chat.read("stream") is True,
        usage_wanted=isinstance(stream_options, dict) and stream_options.get("include_usage") is True,
        tool_names=names,
        tool_choice=_tool_choice(chat),
        custom_tools=frozenset(chat.custom_tools & names.keys()),
        legacy_functions=chat.legacy_functions,
        echoed_prefix=chat.echoed_prefix,
        max_tokens=_max_tokens(chat),
        choices=_choices(chat),
    )


def _max_tokens(chat: Chat) -> int | None:
    """Return how long each choice may become; with both names, vLLM counts by the newer one."""
    newer = _whole_number(chat, "max_completion_tokens")
    return _whole_number(chat, "max_tokens") if newer is None else newer


def _choices(chat: Chat) -> int:
    return max(1, _whole_number(chat, "n") or 1)


#: Above any number of tokens, and such that limits can reckon with it as a double, and without a rounding.
_MOST: Final = 2**53


def _whole_number(chat: Chat, name: str) -> int | None:
    """Return a member that is a whole number, as `1e3` is for vLLM too; a huge one as `_MOST`, one below 0 as 0."""
    if name not in chat.members:
        return None
    value = chat.read(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(min(max(value, 0), _MOST))


def _tool_names(chat: Chat) -> Mapping[str, str]:
    if chat.offer is None:
        return {tool.name: chat.tool_names.get(tool.name, tool.name) for tool in chat.tools}
    if chat.tools is chat.offer.tools:
        return chat.offer.names
    return {tool.name: chat.offer.names[tool.name] for tool in chat.tools}


def _model(chat: Chat) -> str:
    model = chat.read("model")
    return model if isinstance(model, str) else ""


def _tool_choice(chat: Chat) -> ToolChoice:
    choice = chat.read("tool_choice")
    if not chat.tools:
        return "none"
    if isinstance(choice, dict):
        return "named"
    return "required" if choice in ("required", "any") else "none" if choice == "none" else "auto"


def _transport(chat: Chat, stream: bool) -> bool:
    """Set how the answer is to travel; return whether the upstream is to stream (Q24, Q28)."""
    options = chat.options
    upstream_stream = stream and _may_stream(options, bool(chat.tools))
    if stream and not upstream_stream:
        chat.members["stream"] = False
    wanted = chat.read("stream_options")
    if not upstream_stream or options.stream_options == "delete":
        chat.drop("stream_options")
    elif options.ask_usage:  # for our own metrics; the extra chunk is shown only to a client that asked
        chat.members["stream_options"] = {**(wanted if isinstance(wanted, dict) else {}), "include_usage": True}
    return upstream_stream


def _may_stream(options: Options, with_tools: bool) -> bool:
    return options.upstream_stream == "same" or (options.upstream_stream == "never_with_tools" and not with_tools)
