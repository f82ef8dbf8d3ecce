"""
How requests are translated for one profile when most of the work was done before: the shortcuts of the hot path.

Each gives what the rules would give, byte for byte and rule by rule; a request that a shortcut does not know goes
the plain way. Strict mode never takes one: there the first change must be found where it is.

    remembered messages    what the message rules make of one message's bytes (`history`)
    settled histories      no rule on the order has work (`history`)
    remembered tools       what the rules make of a request's definitions, by the bytes of `tools`
    rules with work        rules on members that the request does not have are not called (`chat.only_with`)
"""

from collections.abc import Iterable

from msgspec import Raw

from proxy.errors import InvalidRequest
from proxy.translate import tools
from proxy.translate.chat import NEEDED, Chat, JsonPath, Offer, Rule, Settled, Tool
from proxy.translate.history import NOTHING_TO_DO, KnownMessage, is_settled, known_message, settled_steps
from proxy.translate.memory import Memory
from proxy.translate.profile import Profile
from proxy.translate.reading import RuleLog
from proxy.wire.body import check_utf8
from proxy.wire.chat import encode

#: A request with more messages goes the plain way: it would push everybody else's out of memory.
MOST_MESSAGES = 2000

# Together 12 MiB, keys and values, for each profile that is in use; `Memory` holds the bound. A worker uses one.
_MESSAGE_BYTES, _LONGEST_MESSAGE = 8 << 20, 128 << 10
_OFFER_BYTES, _LONGEST_OFFER = 4 << 20, 512 << 10

_MOST_PLANS = 16
_MOST_SETS_OF_RULES = 256

_DEFINITION_RULES = frozenset({
    tools.flat_tool_to_nested, tools.custom_tool_to_function, tools.foreign_tool_removed, tools.known_definition_keys,
    tools.strict_removed, tools.schema_to_draft7, tools.legal_tool_names, tools.repeated_tool_removed,
})  # fmt: skip


class Plan:
    """
    The shortcuts of one profile, and what they remember between requests.

    Nothing that it remembers changes a result: all of it are values of pure functions, by the bytes they were
    made from, in bounded space.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._rules = tuple(self._offer_tools if rule is tools.read_tools else rule for rule in profile.rules)
        self._needed = {rule: NEEDED[rule] for rule in self._rules if rule in NEEDED}
        self._needed[self._offer_tools] = NEEDED[tools.read_tools]
        self._names = frozenset[str]().union(*self._needed.values())
        self._steps = settled_steps(profile.rules)
        self._rules_by_names: dict[tuple[frozenset[str], bool], tuple[Rule, ...]] = {}
        self._messages: Memory[KnownMessage] = Memory(
            _size_of_message, max_bytes=_MESSAGE_BYTES, max_key_bytes=_LONGEST_MESSAGE
        )
        self._offers: Memory[Offer] = Memory(_size_of_offer, max_bytes=_OFFER_BYTES, max_key_bytes=_LONGEST_OFFER)

    def read_messages(self, chat: Chat, raws: list[Raw], log: RuleLog) -> None:
        """
        Give `chat` its messages.

        Raises:
            InvalidRequest: one makes no sense, or gives its role or content twice.
            UnicodeDecodeError: one is not UTF-8.
        """
        history = [self._known(raw, i) for i, raw in enumerate(raws)]
        for message in history:
            if message.applied:
                log.names.update(dict.fromkeys(message.applied))
        chat.texts = [message.text for message in history]
        if is_settled(history, self._steps):
            chat.ended_with = "tool" if history[-1].kind == "result" else "user"
            chat.settled = Settled(chat.texts, [message.text_with_wire_ids for message in history])
        else:
            chat.ended_with = chat.messages[-1].role

    def _known(self, raw: Raw, index: int) -> KnownMessage:
        # For the 38 messages of the 63 KB body reading costs 150 µs (clean) to 255 (2026-11-23).
        text = bytes(raw)
        known = self._messages.get(text)
        if known is None:
            check_utf8(text)
            known = known_message(Raw(text), index, self.profile)
            self._messages.put(text, known)
        return known

    def _offer_tools(self, chat: Chat) -> JsonPath | None:
        """Do what `tools.read_tools` and the rules on definitions do, when they all can be done at once."""
        raw = chat.members.get("tools")
        if isinstance(raw, Raw):
            # For the 25 definitions of the 63 KB body the rules cost 160 µs clean, 500 with repairs; copying and
            # hashing the key takes 6 (2026-11-23).
            text = bytes(raw)
            offer = self._offers.get(text)
            if offer is None:
                check_utf8(text)
                offer = _offer(Raw(text), self.profile)  # `raw` would keep the whole body alive
                if offer is not None:
                    self._offers.put(text, offer)
            if offer is not None:
                chat.offer, chat.tools, chat.custom_tools = offer, offer.tools, offer.custom
                return None
        return tools.read_tools(chat)

    def rules_for(self, chat: Chat) -> tuple[Rule, ...]:
        """Return the rules that may find something to do, in order."""
        key = (self._names.intersection(chat.members), chat.settled is not None)
        rules = self._rules_by_names.get(key)
        if rules is None:
            rules = tuple(self._with_work(*key))
            if len(self._rules_by_names) >= _MOST_SETS_OF_RULES:
                self._rules_by_names.clear()
            self._rules_by_names[key] = rules
        return rules

    def _with_work(self, names: frozenset[str], is_settled: bool) -> Iterable[Rule]:
        for rule in self._rules:
            needed = self._needed.get(rule)
            if needed is not None and names.isdisjoint(needed):
                continue
            if not (is_settled and rule in NOTHING_TO_DO):
                yield rule


def _offer(raw: Raw, profile: Profile) -> Offer | None:
    """Return what the rules make of the definitions; None if that is not to be told from them alone."""
    chat = Chat({"tools": raw}, profile.options)
    changed: dict[Rule, JsonPath] = {}
    try:
        tools.read_tools(chat)
        sent = len(chat.tools)
        for rule in profile.rules:
            if rule in _DEFINITION_RULES and (path := rule(chat)) is not None:
                changed[rule] = path
    except (InvalidRequest, RecursionError):
        return None  # in its turn, behind other rules
    if sent and not chat.tools:
        return None  # until its rule leaves the last one out, `turns.user_beside_tools` sees it
    offered = [Tool(tool.name, Raw(encode(tool.draft)) if tool.is_touched else tool.raw, None) for tool in chat.tools]
    names = {tool.name: chat.tool_names.get(tool.name, tool.name) for tool in offered}
    custom = {name for name in chat.custom_tools if name in names}
    return Offer(offered, Raw(encode([tool.raw for tool in offered])), changed, names, custom)


def _size_of_message(message: KnownMessage) -> int:
    # The first text is often the key itself: counted again, to be on the safe side.
    size = memoryview(message.text).nbytes + sum(64 + len(id_) for id_ in message.call_ids)
    if message.text_with_wire_ids is not message.text:
        size += memoryview(message.text_with_wire_ids).nbytes
    return size


def _size_of_offer(offer: Offer) -> int:
    # Each definition is there twice, alone and in the list; a `Tool` and its names take less than 512 bytes.
    return 2 * memoryview(offer.text).nbytes + sum(512 + len(name) for name in offer.names.values())


# A profile has no hash: its options hold a mapping. A plan keeps its profile, so no id is of another one.
_plans: dict[int, Plan] = {}


def plan_for(profile: Profile) -> Plan:
    """Return the plan of this very profile, made at its first request."""
    plan = _plans.get(id(profile))
    if plan is None:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        plan = _plans[id(profile)] = Plan(profile)
    return plan
