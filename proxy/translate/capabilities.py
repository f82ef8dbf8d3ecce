"""
What a vLLM tolerates: tiny questions to its /tokenize, and what the answers mean for the profile `auto` (Q29).

    PROBES -> replies -> findings_of() -> Findings -> overrides_of() -> AutoProfiles.profile_for() -> Profile

/tokenize takes messages and tools and renders them as chat does, and generates nothing. A probe asks for one thing in
a conversation that is right in every other way; `control` is that conversation without it. A probe says nothing where
its control is not accepted. Accepted is not enough: several chat templates leave out what they do not know, so the
prompt must have grown by at least one token for each word that was added.

DECISIONS lists which rules the answers may spare. What a rule protects beyond the form of the request is not for a
probe to decide:

    id_mode            stays `hash9`: chat cuts ids to their last nine characters, /tokenize does not
    reasoning_history  stays `drop`: that a tokenizer has thinking tokens does not say that the model was trained
                       to read old thoughts, and agents that switch models send those of others
    late system        no profile sends one after an assistant: mistral-common refuses it in every version
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from proxy.translate.failure import translate_failure
from proxy.translate.profile import UNPROBED, Profile, build_profile
from proxy.translate.quirks import Mode, quirks_for
from proxy.wire.chat import encode

#: An answer of /tokenize: status and body.
Reply = tuple[int, bytes]
_Message = dict[str, Any]

_USER: Final = {"role": "user", "content": "Hi"}
_ASSISTANT: Final = {"role": "assistant", "content": "Hello."}
_SYSTEM: Final = {"role": "system", "content": "Be brief."}
_FUNCTION: Final = {"name": "get_time", "description": "The time.", "parameters": {"type": "object", "properties": {}}}
_TOOL: Final = {"type": "function", "function": _FUNCTION}
_STRICT_TOOL: Final = {"type": "function", "function": {**_FUNCTION, "strict": True}}


def _call(content: str = "", id_: str = "abcdefgh1") -> _Message:
    # An empty string, not null: /tokenize of vLLM 0.32 refuses null beside calls, chat does not.
    call = {"id": id_, "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def _result(id_: str = "abcdefgh1") -> _Message:
    return {"role": "tool", "tool_call_id": id_, "content": "12:00"}


class Probe(NamedTuple):
    """One question. `control` names the probe of the same conversation without what is asked; "" is no conversation."""

    name: str
    asks: str
    messages: tuple[_Message, ...]
    control: str = ""
    tools: tuple[_Message, ...] = ()

    def body(self, model: str | None) -> bytes:
        """Return the body for POST /tokenize; without a model's name vLLM takes its only one."""
        members = {"model": model, "messages": self.messages, "tools": self.tools}
        return encode({name: value for name, value in members.items() if value})

    @property
    def words(self) -> int:
        """How many words the messages hold, and one for each tool: no rendering of all of it has fewer tokens."""
        texts = (message.get(key, "") for message in self.messages for key in ("content", "reasoning"))
        return len(self.tools) + sum(len(text.split()) for text in texts)


#: In the order in which they are asked; a control stands before its probes. The letters are those of Q29.
PROBES: Final[tuple[Probe, ...]] = (
    Probe("plain", "anything at all", (_USER,)),
    Probe("turns", "a conversation", (_USER, _ASSISTANT, _USER), "plain"),
    Probe("calls", "a call and its result", (_USER, _call(), _result()), "plain"),
    Probe("system", "a system message", (_SYSTEM, _USER), "plain"),
    Probe("tools", "a tool", (_USER,), "plain", (_TOOL,)),
    Probe("user_after_tool", "(a) a user after a result", (_USER, _call(), _result(), _USER), "calls"),
    Probe("short_id", "(b) the id `call_1`", (_USER, _call(id_="call_1"), _result("call_1")), "calls"),
    Probe("user_twice", "(c) a user after a user", (_USER, _USER), "plain"),
    Probe("late_system", "(d) a system after an assistant", (_USER, _ASSISTANT, _SYSTEM, _USER), "turns"),
    Probe("strict_tool", "(e) `strict` in a tool", (_USER,), "tools", (_STRICT_TOOL,)),
    Probe("extra_tool_key", "(e) an unknown key in a tool", (_USER,), "tools", ({**_TOOL, "cache_control": {}},)),
    Probe("text_beside_calls", "(f) content and calls", (_USER, _call("I look."), _result()), "calls"),
    Probe("reasoning", "(g) past reasoning", (_USER, _ASSISTANT | {"reasoning": "Hm."}, _USER), "turns"),
    Probe("last_assistant", "an assistant at the end", (_USER, _ASSISTANT), "plain"),
    Probe("assistant_twice", "an assistant after an assistant", (_USER, _ASSISTANT, _ASSISTANT, _USER), "turns"),
    Probe("system_twice", "two systems at the start", (_SYSTEM, _SYSTEM, _USER), "system"),
    Probe("system_after_user", "a system after a user", (_USER, _SYSTEM, _ASSISTANT, _USER, _SYSTEM, _USER), "turns"),
    Probe("assistant_after_system", "an assistant before any user", (_SYSTEM, _ASSISTANT, _USER), "system"),
    Probe("system_alone", "nothing but a system message", (_SYSTEM | {"content": "Be brief, be kind, be clear."},)),
)  # fmt: skip
_BY_NAME: Final = {probe.name: probe for probe in PROBES}

#: What mistral-common and vLLM's Mistral tokenizer say, and no chat template.
_MISTRAL_TEXTS: Final = (
    "Cannot set `add_generation_prompt` to True when the last message is from the assistant",
    "Expected last role User or Tool",
    "must be a-z, A-Z, 0-9, with a length of 9",
)


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known of one upstream. `tolerated` has every probe's name; None is not known.

    `mode` is None where the answers do not tell who renders the prompt. `is_complete` is False where a question went
    without an answer that will be given another time: the upstream was gone, or busy. Ask again then.
    """

    vllm_version: str | None = None
    model: str | None = None
    mode: Mode | None = None
    tolerated: Mapping[str, bool | None] = msgspec.field(default_factory=lambda: dict.fromkeys(_BY_NAME))
    is_complete: bool = False


def findings_of(
    vllm_version: str | None, model: str | None, replies: Mapping[str, Reply], *, is_complete: bool = True
) -> Findings:
    """Return what the replies, by the names of their probes, say together."""
    tolerated = {probe.name: is_tolerated(probe, replies) for probe in PROBES}
    is_busy = any(status == 429 or status >= 500 for status, _ in replies.values())
    return Findings(
        vllm_version=vllm_version,
        model=model,
        mode=_mode(tolerated, replies),
        tolerated=tolerated,
        is_complete=is_complete and not is_busy,
    )


def is_tolerated(probe: Probe, replies: Mapping[str, Reply]) -> bool | None:
    """Whether the upstream accepts what `probe` asks and shows it to the model; None where the replies do not tell."""
    reply = replies.get(probe.name)
    if reply is None or not may_ask(probe, replies):
        return None
    if _is_refusal(reply):
        return False
    count, before, words = _count(reply), 0, 0
    if probe.control:
        before, words = _count(replies[probe.control]) or 0, _BY_NAME[probe.control].words
    if count is None:
        return None
    return probe.words == words or count - before >= probe.words - words


def may_ask(probe: Probe, replies: Mapping[str, Reply]) -> bool:
    """Whether the answer to `probe` would mean something: its control was accepted, or it is the first of all."""
    control = probe.control or PROBES[0].name
    return probe.name == control or is_tolerated(_BY_NAME[control], replies) is True


def _is_refusal(reply: Reply) -> bool:
    """Whether the body was refused. A 404 is no route or no model, a 401 no key, a 429 or 5xx another time."""
    return reply[0] in (400, 422)


class _Tokens(msgspec.Struct):
    count: int


def _count(reply: Reply) -> int | None:
    """Return how many tokens the prompt had. llama.cpp's /tokenize answers any object with 200, without a count."""
    try:
        count = msgspec.json.decode(reply[1], type=_Tokens).count if reply[0] == 200 else 0
    except (msgspec.DecodeError, UnicodeError):
        return None
    return count if count > 0 else None


def _mode(tolerated: Mapping[str, bool | None], replies: Mapping[str, Reply]) -> Mode | None:
    refusals = {
        name: translate_failure(*replies[name]).message
        for name, answer in tolerated.items()
        if answer is False and _is_refusal(replies[name])
    }
    # mistral-common takes the first and refuses the second in every version.
    if "user_twice" in refusals or tolerated["late_system"]:
        return "hf"
    said = (refusals.get("last_assistant", ""), refusals.get("short_id", ""))
    if any(known in text for known in _MISTRAL_TEXTS for text in said):
        return "mistral"
    return "hf" if tolerated["last_assistant"] else None


class Decision(NamedTuple):
    """Which value an option has where all `probes` are tolerated, and where one is not; `mode` None is both."""

    option: str
    probes: tuple[str, ...]
    tolerated: Any
    refused: Any
    mode: Mode | None = None


DECISIONS: Final[tuple[Decision, ...]] = (
    Decision("bridge", ("user_after_tool",), "never", "always"),
    Decision("legacy_v3", ("text_beside_calls",), False, True),
    # A chat template writes `strict` into the prompt, where no model was trained to see it.
    Decision("tool_strict", ("strict_tool",), "keep", "strip", "mistral"),
    Decision("merge_same_role", ("user_twice", "assistant_twice"), False, True, "hf"),
    Decision("lead_system", ("system_twice",), "keep", "single", "hf"),
    Decision("mid_system", ("system_after_user",), "keep", "user", "hf"),
    Decision("first_message", ("assistant_after_system", "system_alone"), "user_or_system", "user", "hf"),
)


def overrides_of(findings: Findings | None) -> tuple[str, dict[str, Any]]:
    """Return the profile to begin with, and those of its options that the findings change."""
    if findings is None:
        return UNPROBED, {}
    base = "vllm-hf-template" if findings.mode == "hf" else UNPROBED
    changes: dict[str, Any] = {}
    for quirk in quirks_for(findings.vllm_version, findings.mode or "mistral"):
        changes |= quirk.options
    for decision in DECISIONS:
        if decision.mode in (None, findings.mode):
            answers = [findings.tolerated.get(name) for name in decision.probes]
            if False in answers:
                changes[decision.option] = decision.refused
            elif None not in answers:
                changes[decision.option] = decision.tolerated
    options = build_profile(base).options
    return base, {name: value for name, value in changes.items() if getattr(options, name) != value}


class AutoProfiles:
    """
    What the profile `auto` becomes, with one operator's options, which always win.

    The same choice is the same object: what a worker remembers of translated messages belongs to a profile
    (`plan.plan_for`), and two replicas of one kind share it.
    """

    #: Arbitrary. Past it, profiles are made anew; those in use go on.
    MOST: Final = 64

    def __init__(self, operator: Mapping[str, Any] | None = None) -> None:
        self._operator = dict(operator or {})
        self._made: dict[tuple[str, bytes], Profile] = {}

    def profile_for(self, findings: Findings | None, learned: Mapping[str, Any] | None = None) -> Profile:
        """
        Return the profile for an upstream: its findings, then what its refusals taught (`lessons`), then the operator.

        Raises:
            ValueError: the operator's options are none, see `build_profile`.
        """
        base, changes = overrides_of(findings)
        profile = build_profile(base, changes | dict(learned or {}) | self._operator)._replace(name=f"auto:{base}")
        key = (base, encode(profile.options))
        if len(self._made) >= self.MOST and key not in self._made:
            self._made.clear()
        return self._made.setdefault(key, profile)
