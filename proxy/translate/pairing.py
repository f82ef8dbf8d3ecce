"""Who answers whom: each result of a history is given to the call that it means."""

from collections import deque
from collections.abc import Iterator

from msgspec import UNSET

from proxy.translate.chat import Chat, JsonPath, Turn
from proxy.wire.chat import Message

#: Ids that say nothing: absent, empty, and what Mistral's SDK writes for "none".
NO_ID = ("", "null")

Answers = list[Message]


def match_results(chat: Chat) -> JsonPath | None:
    """
    Each tool message is given to the call that it answers; changes nothing (Q8, Q9, H1, H2).

    By id first, anywhere later until the id is used again; the k-th result of a repeated id answers the
    k-th such call of the turn. What is left is matched by name and order. Fills
    `chat.turns` and `chat.orphans` for the rules that follow.
    """
    chat.turns = []
    strays = list(_match_by_id(chat))
    chat.orphans = list(_match_by_order(chat.turns, strays))
    return None


def _match_by_id(chat: Chat) -> Iterator[tuple[int, Message]]:
    """Match by id; yield each result that no id claims, with the number of turns before it."""
    open_calls: dict[str, deque[Answers]] = {}
    for message in chat.messages:
        if message.calls:
            turn = Turn(message)
            chat.turns.append(turn)
            fresh: dict[str, deque[Answers]] = {}
            for call, answers in turn.pairs():
                if call.id not in NO_ID:
                    fresh.setdefault(call.id, deque()).append(answers)
            open_calls |= fresh
        elif message.role == "tool":
            slots = open_calls.get(message.tool_call_id) if isinstance(message.tool_call_id, str) else None
            if slots:  # the last slot stays, and takes every further result of that id
                (slots.popleft() if len(slots) > 1 else slots[0]).append(message)
            else:
                yield len(chat.turns), message


def _match_by_order(turns: list[Turn], strays: list[tuple[int, Message]]) -> Iterator[Message]:
    """Give the results that no id claims to the calls they must mean; yield those that mean none."""
    unanswered = _Unanswered()
    seen = 0
    for turns_before, result in strays:
        for turn in turns[seen:turns_before]:
            unanswered.enter(turn)
        seen = turns_before
        answers = unanswered.meant_by(result)
        if answers is None:
            yield result
        else:
            answers.append(result)


class _Unanswered:
    """
    The calls that nothing answers, up to one place in the history.

    Looks at each call once or twice in all, however long the history: calls that got an answer stay in
    the queues until they come to the front.
    """

    def __init__(self) -> None:
        self._turn: deque[tuple[str, Answers]] = deque()  # of the latest turn
        self._named: dict[str, list[deque[tuple[str, Answers]]]] = {}  # by name, one queue per turn

    def enter(self, turn: Turn) -> None:
        """Move on behind `turn`."""
        self._turn = deque((call.function.name, answers) for call, answers in turn.pairs() if not answers)
        names: dict[str, deque[tuple[str, Answers]]] = {}
        for name, answers in self._turn:
            names.setdefault(name, deque()).append((name, answers))
        for name, queue in names.items():
            self._named.setdefault(name, []).append(queue)

    def meant_by(self, result: Message) -> Answers | None:
        """
        Return the answers of the call that `result` must mean, None if there is no such call.

        With an id that no call has: the turn's only unanswered call, unless the names differ. Without an
        id: the turn's first unanswered call, or the nearest of the same name in any turn.
        """
        if isinstance(result.tool_call_id, str) and result.tool_call_id not in NO_ID:
            name, answers = self._only()
            return answers if result.name is UNSET or result.name == name else None
        if isinstance(result.name, str):
            return self._nearest(result.name)
        _prune(self._turn)
        return self._turn[0][1] if self._turn else None

    def _only(self) -> tuple[str, Answers | None]:
        _prune(self._turn)
        while self._turn and self._turn[-1][1]:
            self._turn.pop()
        return self._turn[0] if len(self._turn) == 1 else ("", None)

    def _nearest(self, name: str) -> Answers | None:
        queues = self._named.get(name, [])
        while queues:
            _prune(queues[-1])
            if queues[-1]:
                return queues[-1][0][1]
            queues.pop()
        return None


def _prune(queue: deque[tuple[str, Answers]]) -> None:
    while queue and queue[0][1]:
        queue.popleft()
