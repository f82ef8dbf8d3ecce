"""
Finds the calls that reached `content` as text, while the text streams by (R3).

    OPENING --M3 or M4 begins--> BODY --M3: JSON ends--> ALONE --end of text--> calls
       |                         ^  |                      |
       | neither                 |  | M1, M2, M4:          | more text: none
       v                         |  v JSON ends            v
     TEXT --marker--> MARKED ----+  calls, then TEXT      TEXT
      ^                  |
      +--- no call ------+

A call is handed on whole, once its JSON is known to parse; until then its text is held back, and if it turns out to be
no call, exactly that text is released. In OPENING and MARKED a few words are held, in TEXT a part of the marker.
"""

from collections.abc import Callable, Collection, Iterator
from enum import IntEnum
from typing import Final

from proxy.translate.answer_parts import FoundCall, Text
from proxy.translate.answer_rules import RuleLog
from proxy.translate.answer_text import possible_start
from proxy.translate.json_scanner import JsonScanner
from proxy.translate.leaked_forms import MARKER, Head, Verdict, calls_in_json, json_head, marked_head, named_head
from proxy.wire.chat import is_json_object

# A whole answer is read in slices, so that many markers in one long text cost no more than in a stream.
_SLICE: Final = 4096

Found = list[Text | FoundCall]


class _State(IntEnum):
    OPENING = 0
    TEXT = 1
    MARKED = 2
    BODY = 3
    ALONE = 4


class LeakedCalls:
    """
    Takes text piece by piece; returns text and calls in the order they stand.

    `names` are the offered tools. `json_alone` turns form M3 on, `bare_names` form M4; the marked forms are always on.
    """

    def __init__(self, names: Collection[str], rules: RuleLog, *, json_alone: bool, bare_names: bool) -> None:
        self._names = names
        self._rules = rules
        self._openings: list[Callable[[str], Head]] = []
        if json_alone:
            self._openings.append(json_head)
        if bare_names:
            self._openings.append(lambda text: named_head(text, names))
        self._state = _State.OPENING if self._openings else _State.TEXT
        self._held = ""
        self._head = Head(Verdict.UNDECIDED)
        self._state_after_body = _State.TEXT
        self._scanner = JsonScanner()
        self._body: list[str] = []
        self._tail: list[str] = []
        self._calls: list[FoundCall] = []
        self._handlers = {
            _State.OPENING: self._opening,
            _State.TEXT: self._text,
            _State.MARKED: self._marked,
            _State.BODY: self._in_body,
            _State.ALONE: self._alone,
        }

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held, and text without a bracket passes unchanged."""
        return self._state is _State.TEXT and not self._held

    def holds(self, text: str) -> bool:
        """Take `text` if the JSON of a call goes on after it, else do nothing; return whether it was taken."""
        if self._state is not _State.BODY or not self._scanner.passes(text):
            return False
        self._body.append(text)
        return True

    def receive(self, text: str) -> Found:
        """Return what is settled."""
        found: Found = []
        for piece in (text,) if len(text) <= _SLICE else _slices(text):
            while piece:
                piece = self._handlers[self._state](piece, found)
        return found

    def finish(self, *, is_cut: bool) -> Found:
        """
        Return what was held back; the text has ended, and nothing may follow.

        `is_cut` says that it ended at the token limit: then a call with a known name and cut arguments is a call.
        """
        found: Found = []
        if self._state is _State.ALONE:
            self._settle(found)
        elif self._state is _State.BODY and is_cut and self._head.name is not None:
            self._rules.recover(1)
            found.append(FoundCall(self._head.name, "".join(self._body), self._head.id))
        else:
            found.append(Text(self._take_all()))
        return found

    # Each handler takes a piece and returns the rest of it, to be handled in the state that is current then.

    def _opening(self, piece: str, found: Found) -> str:
        text = self._take_held() + piece
        heads = [read(text) for read in self._openings]
        for head, read in zip(heads, self._openings, strict=True):
            if head.verdict is Verdict.CALL:
                return self._begin(text, head, _State.ALONE if read is json_head else _State.TEXT)
        if any(head.verdict is Verdict.UNDECIDED for head in heads):
            self._held = text
            return ""
        self._state = _State.TEXT
        return text

    def _text(self, piece: str, found: Found) -> str:
        text = self._take_held() + piece
        at = text.find(MARKER)
        if at != -1:
            found.append(Text(text[:at]))
            self._state = _State.MARKED
            return text[at:]
        settled = len(text) - possible_start(text, MARKER)
        self._held = text[settled:]
        found.append(Text(text[:settled]))
        return ""

    def _marked(self, piece: str, found: Found) -> str:
        text = self._take_held() + piece
        head = marked_head(text, self._names)
        if head.verdict is Verdict.CALL:
            return self._begin(text, head, _State.TEXT)
        if head.verdict is Verdict.UNDECIDED:
            self._held = text
            return ""
        found.append(Text(MARKER))
        self._state = _State.TEXT
        return text[len(MARKER) :]

    def _begin(self, text: str, head: Head, state_after_body: _State) -> str:
        self._held = text[: head.body]
        self._head = head
        self._state_after_body = state_after_body
        self._scanner = JsonScanner()
        self._state = _State.BODY
        return text[head.body :]

    def _in_body(self, piece: str, found: Found) -> str:
        end = self._scanner.end_in(piece)
        if end == -1:
            self._body.append(piece)
            return ""
        self._body.append(piece[:end])
        self._calls = self._calls_in("".join(self._body))
        self._state = self._state_after_body if self._calls else _State.TEXT
        if self._state is _State.TEXT:
            self._settle(found)
        return piece[end:]

    def _alone(self, piece: str, found: Found) -> str:
        if not piece.strip("` \t\r\n"):
            self._tail.append(piece)
            return ""
        found.append(Text(self._take_all()))
        self._state = _State.TEXT
        return piece

    def _settle(self, found: Found) -> None:
        """Hand on the calls whose JSON has ended, or its text if it is none."""
        text = self._take_all()
        if self._calls:
            self._rules.recover(len(self._calls))
        found.extend(self._calls or [Text(text)])

    def _calls_in(self, body: str) -> list[FoundCall]:
        if self._head.name is None:
            return calls_in_json(body, self._names)
        return [FoundCall(self._head.name, body, self._head.id)] if is_json_object(body) else []

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held

    def _take_all(self) -> str:
        text = self._take_held() + "".join(self._body) + "".join(self._tail)
        self._body.clear()
        self._tail.clear()
        return text


def _slices(text: str) -> Iterator[str]:
    return (text[at : at + _SLICE] for at in range(0, len(text), _SLICE))
