"""
Content as it comes in pieces: an echo to cut, thoughts to split off, white space to hold back.

Each class takes text piece by piece and returns what is settled; how the text was cut never changes what comes out in
all. `finish` returns what was held back.

    ThinkTags:   OPENING --tag--> THINKING --closing tag--> ANSWERING
                    |                                          ^
                    +--- anything that cannot become a tag ----+
"""

from enum import IntEnum
from typing import Final

from proxy.translate.answer_parts import Text, Thought
from proxy.translate.answer_rules import RuleLog

# Longer runs of white space are a model that is stuck, not the gap before a call. The figure is arbitrary;
# the gap seen in practice is two line ends.
_LONGEST_SPACE: Final = 64

# Magistral 2506 writes the second form as plain text, tokenizers v13 and later the first one as tokens.
_TAGS: Final = (("[THINK]", "[/THINK]"), ("<think>", "</think>"))


def possible_start(text: str, marker: str) -> int:
    """Return the length of the longest end of `text` that may be the start of `marker`; 0 if there is none."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0


class EchoedPrefix:
    """Removes `prefix` once from the start of the content, if it is there (R2)."""

    def __init__(self, prefix: str, rules: RuleLog) -> None:
        self._prefix = prefix
        self._held = ""
        self._rules = rules

    @property
    def is_settled(self) -> bool:
        """Whether all further text passes unchanged."""
        return not self._prefix

    def receive(self, text: str) -> str:
        """Return the text that is certainly not the echo."""
        if not self._prefix:
            return text
        self._held += text
        if len(self._held) < len(self._prefix) and self._prefix.startswith(self._held):
            return ""
        if self._held.startswith(self._prefix):
            self._rules.add("drop_echoed_prefix")
            self._held = self._held[len(self._prefix) :]
        return self.finish()

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held, self._prefix = self._held, "", ""
        return held


class _Think(IntEnum):
    OPENING = 0
    THINKING = 1
    ANSWERING = 2


class ThinkTags:
    """Splits `[THINK]...[/THINK]` or `<think>...</think>` off the start of the content (R11)."""

    def __init__(self, *, is_on: bool, rules: RuleLog) -> None:
        self._state = _Think.OPENING if is_on else _Think.ANSWERING
        self._held = ""
        self._closing_tag = ""
        self._rules = rules

    @property
    def is_settled(self) -> bool:
        """Whether all further text passes unchanged."""
        return self._state is _Think.ANSWERING

    def receive(self, text: str) -> list[Text | Thought]:
        """Return the settled parts of the text so far."""
        if self._state is _Think.ANSWERING:
            return [Text(text)]
        text = self._held + text
        self._held = ""
        return self._opening(text) if self._state is _Think.OPENING else self._thinking(text)

    def _opening(self, text: str) -> list[Text | Thought]:
        start = text.lstrip()
        is_early = len(text) - len(start) <= _LONGEST_SPACE
        for tag, closing_tag in _TAGS:
            if is_early and start.startswith(tag):
                self._state = _Think.THINKING
                self._closing_tag = closing_tag
                self._rules.add("think_tags_to_reasoning")
                return self._thinking(start[len(tag) :])
            if is_early and tag.startswith(start):
                self._held = text
                return []
        self._state = _Think.ANSWERING
        return [Text(text)]

    def _thinking(self, text: str) -> list[Text | Thought]:
        thought, closing_tag, answer = text.partition(self._closing_tag)
        if closing_tag:
            self._state = _Think.ANSWERING
            return [Thought(thought), Text(answer)]
        kept = len(text) - possible_start(text, self._closing_tag)
        self._held = text[kept:]
        return [Thought(text[:kept])]

    def finish(self) -> list[Text | Thought]:
        """Return what was held back."""
        held, self._held = self._held, ""
        if self._state is _Think.THINKING:
            return [Thought(held)]
        if held:
            self._state = _Think.ANSWERING
        return [Text(held)]


class SpaceBeforeCalls:
    """
    Holds back white space at the end of the text until it is known what follows (R2, H9).

    vLLM 0.32 strips the text before a call in whole answers and not in streamed ones. Text that follows releases the
    space; an answer with calls that ends in it loses it. A run of more than `_LONGEST_SPACE` is not held.
    """

    def __init__(self, *, is_on: bool, rules: RuleLog) -> None:
        self._is_on = is_on
        self._run = 0
        self._held: list[str] = []
        self._rules = rules

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held, and text that does not end in white space passes unchanged."""
        return not self._run or not self._is_on

    def receive(self, text: str) -> str:
        """Return the text that is settled."""
        if not self._is_on:
            return text
        solid = len(text.rstrip())
        self._run = (0 if solid else self._run) + len(text) - solid
        if self._run > _LONGEST_SPACE:
            return self._release() + text
        if not solid:
            self._held.append(text)
            return ""
        settled = self._release() + text[:solid]
        self._held.append(text[solid:])
        return settled

    def finish(self, *, has_calls: bool) -> str:
        """Return what was held back, or nothing if the answer has calls."""
        held = self._release()
        if has_calls and held:
            self._rules.add("drop_space_before_calls")
            return ""
        return held

    def _release(self) -> str:
        held = "".join(self._held)
        self._held.clear()
        return held
