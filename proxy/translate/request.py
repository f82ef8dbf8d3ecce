"""
A client's body becomes an upstream's body: decode once, run the rules, encode once.

Pure and deterministic: no memory between requests, the same body always gives the same bytes (prompt
caches depend on it), and rules find nothing to do on their own output. What no rule touched goes out
as the bytes that came in.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw

from proxy.errors import InvalidRequest
from proxy.translate.chat import Chat, JsonPath, path_text, read_json
from proxy.translate.expectation import Expectation, ToolChoice
from proxy.translate.messages import known_call_shape, known_keys_only, message_from
from proxy.translate.options import Options
from proxy.translate.profile import OPERATOR_RULES, Profile
from proxy.translate.sampling import wants_stream
from proxy.wire.body import decode_body, split_messages
from proxy.wire.chat import Message, canonical_message, encode
from proxy.wire.echo import read_echo


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
        return _translated(body, profile, profile.options_for(user_agent), _RuleLog(strict))
    except RecursionError:
        # Every decoder has a limit of its own; this is for what passed it and was too deep for a rule.
        raise InvalidRequest("The body is nested too deeply.", param="$") from None


def asked_whole(request: UpstreamRequest) -> UpstreamRequest:
    """Return the same request asking the upstream for a whole answer instead of a stream (R4)."""
    members: dict[str, Any] = dict(decode_body(request.body))
    members["stream"] = False
    members.pop("stream_options", None)
    return msgspec.structs.replace(request, body=encode(members), upstream_stream=False)


def _translated(body: bytes, profile: Profile, options: Options, log: "_RuleLog") -> UpstreamRequest:
    members = decode_body(body)
    raw_messages = split_messages(members.get("messages", Raw(b"null")))
    chat = Chat(members, options)
    _check_model(chat)
    if not profile.rules:
        return _passed_through(body, chat)
    for i, raw in enumerate(raw_messages):
        chat.messages.append(_canonical(chat, raw, i, profile, log))
    chat.ended_with = chat.messages[-1].role
    for rule in profile.rules:
        log.ran(rule, rule(chat))
    return _encoded(chat, log)


class _RuleLog:
    """Which rules changed something; in strict mode the first that does refuses the request."""

    def __init__(self, strict: bool) -> None:
        self.is_strict = strict
        self.names: dict[str, None] = {}

    def ran(self, rule: Any, path: JsonPath | None, prefix: JsonPath = ()) -> None:
        if path is None:
            return
        if self.is_strict and rule not in OPERATOR_RULES:
            reason = rule.__doc__.partition("\n")[0]
            raise InvalidRequest(
                f"Refused in strict mode by {rule.__name__}: {reason}", param=path_text((*prefix, *path))
            )
        self.names[rule.__name__] = None


def _canonical(chat: Chat, raw: Raw, index: int, profile: Profile, log: _RuleLog) -> Message:
    """Return a message in canonical form: as it came, as the echo it is, or through the message rules."""
    message = canonical_message(raw)
    if message is not None:
        chat.keep_source(message, raw)
        return message
    here: JsonPath = ("messages", index)
    # Strict mode names the very key that would go: the rules know it, the shortcut does not.
    echo = None if log.is_strict else read_echo(raw)
    if echo is not None:
        log.ran(known_call_shape, ("tool_calls",) if echo.left_out_in_calls else None, here)
        log.ran(known_keys_only, () if echo.left_out_keys else None, here)
        return echo.message
    draft = read_json(raw, here)
    if not isinstance(draft, dict):
        raise InvalidRequest("A message must be an object.", param=path_text(here))
    try:
        for rule in profile.message_rules:
            log.ran(rule, rule(draft, chat.options), here)
        return message_from(draft)
    except InvalidRequest as exc:
        if exc.param is not None and not exc.param.startswith("messages"):
            exc.param = f"{path_text(here)}.{exc.param}"
        raise


def _check_model(chat: Chat) -> None:
    """
    Raises:
        InvalidRequest: `model` is not a string. Absent and null mean the server's only model.
    """
    model = chat.read("model")
    if not (model is UNSET or model is None or isinstance(model, str)):
        raise InvalidRequest("`model` must be a string.", param="model")


def _passed_through(body: bytes, chat: Chat) -> UpstreamRequest:
    stream = wants_stream(chat)
    expectation = Expectation(options=chat.options, model=_model(chat), stream=stream, usage_wanted=True)
    return UpstreamRequest(body, expectation.model, stream, stream, (), expectation)


def _encoded(chat: Chat, log: _RuleLog) -> UpstreamRequest:
    expectation = _expectation(chat)
    upstream_stream = _transport(chat, expectation.stream)
    members = chat.members
    members["messages"] = chat.wire_messages()
    if chat.tools:
        members["tools"] = [tool.draft if tool.is_touched else tool.raw for tool in chat.tools]
    return UpstreamRequest(
        encode(members), expectation.model, expectation.stream, upstream_stream, tuple(log.names), expectation
    )


def _expectation(chat: Chat) -> Expectation:
    stream_options = chat.read("stream_options")
    names = {tool.name: chat.tool_names.get(tool.name, tool.name) for tool in chat.tools}
    # With both, vLLM counts by the newer name.
    limits = [chat.read("max_completion_tokens"), chat.read("max_tokens")]
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
        max_tokens=next((n for n in limits if isinstance(n, int) and not isinstance(n, bool)), None),
    )


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
