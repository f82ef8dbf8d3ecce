"""Checks on what a server is, whom it answers, what it serves, and what it refuses. Nothing here generates."""

from typing import Any, Final

import msgspec

from proxy.config import MASK
from proxy.doctor.asking import Answer, NoAnswer
from proxy.doctor.case import Case, Kind
from proxy.doctor.outcome import Outcome, failed, ok, quoted, skipped, warning
from proxy.errors import UpstreamUnavailable
from proxy.translate.capabilities import PROBES, Probe, Reply
from proxy.translate.failure import translate_failure
from proxy.translate.profile import build_profile
from proxy.translate.quirks import Quirk, Version, parse_version, quirks_for
from proxy.translate.request import translate_request
from proxy.upstream.probe import probe
from proxy.upstream.profiles import Profiles

#: The oldest that the rules and quirks know (translate/quirks.py), and the newest that was run behind them.
_OLDEST: Final[Version] = (0, 8, 5)
_NEWEST: Final[Version] = (0, 32, 0)
#: Recorded requests of agents have up to 25,000 tokens before the first answer (tests/cases/agents).
_SMALL_CONTEXT: Final = 32_768
_MOST_NAMED: Final = 8
#: What a server's name or version may be long.
_LONGEST_NAME: Final = 120


class _Version(msgspec.Struct):
    version: str
    name: str = ""


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


async def server(case: Case) -> Outcome:
    """Who answers there: GET /version."""
    answer = await case.server.ask("GET", "/version")
    try:
        found = msgspec.json.decode(answer.body, type=_Version) if answer.status == 200 else None
    except (msgspec.DecodeError, UnicodeError):
        found = None
    if found is None:
        return warning(f"this is no vLLM: /version answers {answer.status}", details=_software(answer))
    case.version = quoted(found.version, _LONGEST_NAME)
    if found.name == "devstral-proxy":
        case.kind, case.profile = Kind.PROXY, build_profile("passthrough")
        return ok(f"this is a Devstral Proxy {case.version}: all that follows is seen through it")
    case.kind = Kind.VLLM
    return ok(f"vLLM {case.version}")


def _software(answer: Answer) -> tuple[str, ...]:
    name = answer.headers.get("Server")
    return (f"it calls itself {quoted(name, _LONGEST_NAME)}",) if name else ()


async def version(case: Case) -> Outcome:
    """Its version is one that the rules were made for."""
    if case.kind is not Kind.VLLM:
        return skipped(f"{case.kind.value} has versions of its own")
    numbers = parse_version(case.version)
    if numbers is None:
        return skipped(f"{case.version} is not a version of vLLM")
    if numbers < _OLDEST:
        return warning(
            f"{case.version} is older than any that is known ({_text(_OLDEST)})", "pip install --upgrade vllm"
        )
    if numbers > _NEWEST:
        return ok(f"{case.version} is newer than the newest that was tried, {_text(_NEWEST)}")
    return ok(f"{case.version} is between {_text(_OLDEST)} and {_text(_NEWEST)}, the oldest and newest that are known")


def _text(numbers: Version) -> str:
    return ".".join(map(str, numbers))


async def health(case: Case) -> Outcome:
    """It says that it can work: GET /health, and /readyz of a proxy."""
    path = "/readyz" if case.kind is Kind.PROXY else "/health"
    answer = await case.server.ask("GET", path)
    if answer.status < 400:
        return ok(f"{path} answers {answer.status}")
    if case.kind is Kind.PROXY:
        return failed(
            f"{path} answers {answer.status}: it has no upstream to work with", "devstral-proxy doctor UPSTREAM"
        )
    if answer.status >= 500:
        return failed(f"{path} answers {answer.status}: its engine is dead; restart it, and read its log")
    return warning(f"{path} answers {answer.status}: the proxy can tell only by failures that it is ill")


async def key(case: Case) -> Outcome:
    """The API key is right, or none is needed."""
    answer = await case.server.ask("GET", "/v1/models")
    is_sent = bool(case.server.backend.api_key)
    if answer.status not in (401, 403):
        return ok("the key is accepted, or none is asked for" if is_sent else "none is asked for")
    if is_sent:
        return failed(f"the key is refused ({answer.status})", "--api-key-file FILE", details=_said_no(answer))
    return failed(
        f"a key is asked for ({answer.status}), and none was sent",
        "--api-key-file FILE",
        "VLLM_API_KEY_FILE=FILE devstral-proxy …",
        details=_said_no(answer),
    )


def _said_no(answer: Answer) -> tuple[str, ...]:
    return (f"it says: {quoted(translate_failure(answer.status, answer.body).message)}",)


async def models(case: Case) -> Outcome:
    """It serves the model, with room for an agent's prompts."""
    answer = await case.server.ask("GET", "/v1/models")
    try:
        found = msgspec.json.decode(answer.body, type=_Models).data if answer.status == 200 else None
    except (msgspec.DecodeError, UnicodeError):
        found = None
    if found is None:
        return failed(f"/v1/models answers {answer.status} and no list of models", details=_said_no(answer))
    names = ", ".join(quoted(model.id, _LONGEST_NAME) for model in found[:_MOST_NAMED])
    names += f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    wanted = [model for model in found if case.wanted_model in ("", model.id)]
    if not wanted:
        if not found:
            return failed("it serves no model")
        return failed(
            f"it does not serve {quoted(case.wanted_model, _LONGEST_NAME)}; it serves {names}", "--model NAME"
        )
    case.model, case.max_model_len = wanted[0].id, wanted[0].max_model_len
    return _context(names, case.max_model_len)


def _context(names: str, length: int | None) -> Outcome:
    if length is None:
        return ok(names, "it does not tell max_model_len")
    if length < _SMALL_CONTEXT:
        return warning(
            f"{names}; {length} tokens of context are few: agents begin with up to 25,000",
            "vllm serve … --max-model-len 131072",
        )
    return ok(f"{names}; {length} tokens of context")


async def tokenizer(case: Case) -> Outcome:
    """Who makes a prompt of messages: Mistral's tokenizer or a chat template."""
    if case.kind is Kind.PROXY:
        return skipped("a Devstral Proxy asks its upstreams itself")
    statuses: list[int] = []

    async def ask(method: str, path: str, body: bytes | None) -> Reply:
        try:
            answer = await case.server.ask(method, path, body)
        except NoAnswer as exc:
            raise UpstreamUnavailable(exc.says) from None
        statuses.append(answer.status)
        return answer.status, answer.body

    findings = await probe(ask)
    if all(answer is None for answer in findings.tolerated.values()):
        last = f" ({statuses[-1]})" if statuses else ""
        return skipped(f"/tokenize does not tell{last}; `auto` takes it for Mistral's")
    case.findings = findings
    case.profile = Profiles(case.config.options).profile_for(case.server.backend, findings, {})
    if findings.mode == "mistral":
        return ok("Mistral's own (mistral-common)")
    if findings.mode == "hf":
        return warning(
            "a chat template renders the prompts: what it does not know it leaves out",
            "vllm serve … --tokenizer-mode mistral, for a model that has tekken.json",
        )
    return skipped("the answers of /tokenize do not tell")


async def shapes(case: Case) -> Outcome:
    """Which forms of a conversation it refuses, and what the proxy does about each."""
    if case.findings is None:
        return skipped("only /tokenize tells")
    refused = [each for each in PROBES if case.findings.tolerated[each.name] is False]
    asked = sum(answer is not None for answer in case.findings.tolerated.values())
    if not refused:
        return ok(f"takes all of {asked}")
    seen_to = {_asked(each): _rules_for(each, case) for each in refused}
    lines = tuple(f"{asked_for}: {', '.join(rules) or 'no rule sees to it'}" for asked_for, rules in seen_to.items())
    says = f"{len(refused)} of {asked} are refused or not shown to the model"
    if not all(seen_to.values()):
        return warning(f"{says}, and no rule of the profile {case.profile.name} sees to some", details=lines)
    return ok(f"{says}; rules of the profile {case.profile.name} see to them", *lines)


def _asked(shape: Probe) -> str:
    """Return what a probe asks for, without its letter."""
    return shape.asks.partition(") ")[2] or shape.asks


def _rules_for(shape: Probe, case: Case) -> tuple[str, ...]:
    """Return the rules that change a shape, and not the same conversation without it."""
    control = next((each for each in PROBES if each.name == shape.control), None)
    usual = _rules(control, case) if control else ()
    return tuple(name for name in _rules(shape, case) if name not in usual)


def _rules(shape: Probe, case: Case) -> tuple[str, ...]:
    return translate_request(shape.body(case.model or None), case.profile).rules_applied


async def quirks(case: Case) -> Outcome:
    """What this version of vLLM does differently, and what the proxy does about it."""
    mode = case.findings.mode if case.findings else None
    rows = quirks_for(case.version, mode or "mistral") if case.kind is Kind.VLLM else ()
    if not rows:
        return skipped("none is known for this server")
    lines = tuple(_line(row) for row in rows)
    if buffered := [row for row in rows if "upstream_stream" in row.options and row.before]:
        fixed_in = _text(max(row.before for row in buffered if row.before))
        return warning(
            "with tools the proxy asks this version for whole answers: text comes all at once",
            f"pip install 'vllm>={fixed_in}'",
            details=lines,
        )
    return ok(f"{len(rows)} known for {case.version}", *lines)


def _line(row: Quirk) -> str:
    options = ", ".join(f"{name}={value}" for name, value in row.options.items())
    return f"{row.fact} [{row.seen_by or options or 'nothing in the proxy helps'}]"


def without_key(outcome: Outcome, api_key: str) -> Outcome:
    """Return the outcome with the key masked, wherever a server has sent it back."""

    def masked(texts: Any) -> Any:
        return tuple(text.replace(api_key, MASK) for text in texts)

    if not api_key:
        return outcome
    return Outcome(outcome.status, masked([outcome.says])[0], masked(outcome.details), masked(outcome.fix))
