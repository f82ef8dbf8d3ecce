"""What is explained, and with which profile: the settings of the proxy, as far as a translation depends on them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from proxy.config import Config, ConfigError, checked_backends
from proxy.explain.document import printable, scalar
from proxy.explain.page import Row
from proxy.explain.request import differing_options
from proxy.fronts.front import Front
from proxy.fronts.messages import MESSAGES_PATH
from proxy.fronts.table import FRONTS
from proxy.translate.expectation import Expectation
from proxy.translate.profile import AUTO, UNPROBED, Profile, build_profile
from proxy.translate.request import UpstreamRequest, translate_request

#: What a client may speak, and where it asks.
APIS: Final[Mapping[str, str]] = MappingProxyType(
    {"chat": "/v1/chat/completions", "messages": MESSAGES_PATH, "responses": "/v1/responses"}
)


class Setting(NamedTuple):
    """
    A profile, and what else a translation depends on. `asked_for` is the profile's name in the settings.

    `others` are profiles that some of the configured upstreams have instead. `api` is one of `APIS`.
    """

    profile: Profile
    asked_for: str
    others: tuple[str, ...]
    options: Mapping[str, Any]
    strict: bool
    user_agent: str
    api: str

    def front(self) -> Front | None:
        """Return what makes a chat completion of one request, if it is none."""
        make = FRONTS.get(APIS[self.api])
        return None if make is None else make("req_0123456789abcdef")  # what a request's id looks like


def setting_of(config: Config, *, profile: str, user_agent: str, api: str) -> Setting:
    """
    Return what the settings say about a translation. `profile` wins over those of the upstreams, unless it is "".

    Raises:
        ConfigError: the options do not fit the profile.
    """
    theirs = tuple(dict.fromkeys(backend.profile for backend in checked_backends(config)))
    name, *others = (profile,) if profile else theirs or (config.profile,)
    try:
        built = build_profile(name, config.options)
    except ValueError as exc:
        raise ConfigError(str(exc)) from None
    options = differing_options(built, build_profile(name))
    return Setting(built, name, tuple(others), options, config.strict, user_agent, api)


def expectation_of(setting: Setting, request: UpstreamRequest | None, tools: tuple[str, ...]) -> Expectation:
    """Return what an answer is read by: what its request says, or, without one, a stream with usage and `tools`."""
    if request is not None:
        return request.expectation
    options = setting.profile.options_for(setting.user_agent)
    names = {name: name for name in tools}
    return Expectation(options=options, model="", stream=True, usage_wanted=True, tool_names=names)


def translated(body: bytes, setting: Setting) -> UpstreamRequest:
    """
    Return the request that an answer belongs to.

    Raises:
        InvalidRequest: it is refused, so there is no answer to it.
    """
    front = setting.front()
    if front is not None:
        body = front.request(body, strict=setting.strict)
    return translate_request(body, setting.profile, strict=setting.strict, user_agent=setting.user_agent)


def setting_rows(setting: Setting) -> Iterator[Row]:
    """Return the head of a report."""
    yield Row("text", f"profile  {setting.profile.name if setting.asked_for != AUTO else UNPROBED}")
    if setting.asked_for == AUTO:
        yield Row("note", "         `auto` depends on the upstream, which is not asked here.")
        yield Row("note", "         This is the profile until it has answered; --profile NAME takes another one.")
    if setting.others:
        yield Row("note", f"         other upstreams have {', '.join(setting.others)}: --profile NAME takes one.")
    for name, value in setting.options.items():
        yield Row("text", f"option   {name}={option_text(value)}")
    if setting.profile.options_for(setting.user_agent) != setting.profile.options:
        yield Row("text", "option   tool_stream=whole for this User-Agent")
    if setting.strict:
        yield Row("text", "strict   true: a request that a rule would change is refused")
    if setting.api != "chat":
        yield Row("text", f"api      {APIS[setting.api]}")


def option_text(value: Any) -> str:
    """Return an option's value as it is written in `--option NAME=VALUE`."""
    if isinstance(value, str):
        return printable(value)
    return ",".join(map(printable, value)) if isinstance(value, tuple) else scalar(value)


def setting_fields(setting: Setting) -> dict[str, Any]:
    """Return the head of a report as data."""
    return {
        "profile": setting.asked_for,
        "rules_of": UNPROBED if setting.asked_for == AUTO else setting.profile.name,
        "other_profiles": setting.others,
        "options": setting.options,
        "strict": setting.strict,
        "user_agent": setting.user_agent,
        "api": setting.api,
    }
