"""What becomes of a request body: the rules that change it, in order, each with what it changes and why."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from proxy.errors import ClientError, InvalidRequest, ProxyError, error_body
from proxy.explain.differences import Change, changed_paths, changes_between
from proxy.fronts.front import Front
from proxy.fronts.rewrites import reason_of
from proxy.fronts.table import FRONT_RULES
from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, Choice, Profile
from proxy.translate.request import UpstreamRequest, translate_step_by_step
from proxy.translate.steps import Step


class RuleReport(NamedTuple):
    """
    All that one rule changed; `paths` are the places that differ.

    `option` is the choice that picked it, as NAME=VALUE, "" for a rule that always runs.
    """

    rule: str
    reason: str
    option: str
    paths: tuple[str, ...]
    changes: tuple[Change, ...]


class RequestReport(NamedTuple):
    """
    What a body becomes: either `request` goes upstream, or `error` goes back. `rules` are those that ran before.

    `body` is what they ran on: the client's, or the chat completion that `front` has made of it (`is_made`).
    """

    body: bytes
    rules: tuple[RuleReport, ...]
    request: UpstreamRequest | None
    error: ClientError | None
    front: Front | None
    is_made: bool

    @property
    def front_rules(self) -> Mapping[str, str]:
        """The front's own rules that changed something, each with its reason."""
        reasons = {rule.__name__: reason_of(rule) for rule in FRONT_RULES}
        return {} if self.front is None else {name: reasons[name] for name in self.front.rules}

    def error_body(self, error: ProxyError) -> bytes:
        """Return an error in the client's own form."""
        return error_body(error) if self.front is None else self.front.error_body(error)


def explain_request(
    body: bytes, profile: Profile, *, strict: bool = False, user_agent: str = "", front: Front | None = None
) -> RequestReport:
    """
    Return what `translate_request` makes of `body`, and how. A refusal is a result, not an error.

    With `front` the body is not a chat completion's, but that of another API.

    Raises:
        RecursionError: it can be translated, and is nested too deeply to be shown.
    """
    steps: list[Step] = []
    request, error, is_made = None, None, False
    try:
        if front is not None:
            body, is_made = front.request(body, strict=strict), True
        request = translate_step_by_step(body, profile, steps.append, strict=strict, user_agent=user_agent)
    except InvalidRequest as exc:
        error = exc
    return RequestReport(body, tuple(_by_rule(steps, profile)), request, error, front, is_made)


def _by_rule(steps: Sequence[Step], profile: Profile) -> Iterator[RuleReport]:
    """Put the steps of one rule together: the message rules run message by message."""
    grouped: dict[str, list[Step]] = {}
    for step in steps:
        grouped.setdefault(step.rule, []).append(step)
    for rule, its_steps in grouped.items():
        changes = tuple(change for step in its_steps for change in _changes(step))
        yield RuleReport(rule, its_steps[0].reason, option_of(rule, profile), tuple(changed_paths(changes)), changes)


def _changes(step: Step) -> list[Change]:
    if step.at:
        return [Change(step.at, step.at, step.before, step.after)]
    return changes_between(step.before, step.after)


def option_of(rule: str, profile: Profile) -> str:
    """Return the option and its value that picked the rule of that name, "" for one that runs always."""
    entries: tuple[Any, ...] = (*MESSAGE_RULES, *CHAT_RULES)
    for entry in entries:
        if isinstance(entry, Choice):
            value = getattr(profile.options, entry.option)
            picked = entry.rules.get(value)
            if picked is not None and picked.__name__ == rule:
                return f"{entry.option}={_option_text(value)}"
    return ""


def _option_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def differing_options(profile: Profile, standard: Profile) -> dict[str, Any]:
    """Return the options of `profile` that are not those of `standard`."""
    names = profile.options.__struct_fields__
    chosen = {name: getattr(profile.options, name) for name in names}
    return {name: value for name, value in chosen.items() if value != getattr(standard.options, name)}
