"""One message of a request, from its JSON text to canonical form: as it came, as an echo, or by the message rules."""

from collections.abc import Callable
from typing import Any

from msgspec import Raw

from proxy.errors import InvalidRequest
from proxy.translate.chat import JsonPath, path_text, read_json
from proxy.translate.messages import known_call_shape, known_keys_only, message_from
from proxy.translate.profile import OPERATOR_RULES, Profile
from proxy.wire.body import refuse_repeated_keys
from proxy.wire.chat import Message, canonical_message, gives_keys_once
from proxy.wire.echo import read_echo


class RuleLog:
    """Which rules changed something; in strict mode the first that does refuses the request."""

    def __init__(self, strict: bool) -> None:
        self.is_strict = strict
        self.names: dict[str, None] = {}

    def ran(self, rule: Any, path: JsonPath | None, prefix: JsonPath = ()) -> None:
        """
        Note what `rule` returned for the place `prefix`.

        Raises:
            InvalidRequest: it changed something, in strict mode.
        """
        if path is None:
            return
        if self.is_strict and rule not in OPERATOR_RULES:
            raise InvalidRequest(
                f"Refused in strict mode by {rule.__name__}: {reason_of(rule)}", param=path_text((*prefix, *path))
            )
        self.names[rule.__name__] = None


def reason_of(rule: Callable[..., Any]) -> str:
    """Return the first line of a rule's docstring: what differs, and who says so."""
    return (rule.__doc__ or "").strip().partition("\n")[0]


def read_message(raw: Raw, index: int, profile: Profile, log: RuleLog) -> tuple[Message, bool]:
    """
    Return the message of that place in canonical form, and whether its text says just that.

    Raises:
        InvalidRequest: it makes no sense, or gives its role or content twice.
    """
    here: JsonPath = ("messages", index)
    message = canonical_message(raw)
    if message is not None:
        if not gives_keys_once(message, memoryview(raw).nbytes):
            refuse_repeated_keys(bytes(raw), path_text(here))
        return message, True
    refuse_repeated_keys(bytes(raw), path_text(here))
    # Strict mode names the very key that would go: the rules know it, the shortcut does not.
    echo = None if log.is_strict else read_echo(raw)
    if echo is not None:
        log.ran(known_call_shape, ("tool_calls",) if echo.left_out_in_calls else None, here)
        log.ran(known_keys_only, () if echo.left_out_keys else None, here)
        return echo.message, False
    return ruled_message(raw, here, profile, log), False


def ruled_message(raw: Raw, here: JsonPath, profile: Profile, log: RuleLog) -> Message:
    """
    Return the message at `here` in canonical form, by the message rules.

    Raises:
        InvalidRequest: it makes no sense.
    """
    draft = read_json(raw, here)
    if not isinstance(draft, dict):
        raise InvalidRequest("A message must be an object.", param=path_text(here))
    try:
        for rule in profile.message_rules:
            log.ran(rule, rule(draft, profile.options), here)
        return message_from(draft)
    except InvalidRequest as exc:
        if exc.param is not None and not exc.param.startswith("messages"):
            exc.param = f"{path_text(here)}.{exc.param}"
        raise
