"""What an answer is made of, in the order it is said: text, thoughts, calls."""

import msgspec


class Text(msgspec.Struct, frozen=True, gc=False):
    """Words for the user."""

    text: str


class Thought(msgspec.Struct, frozen=True, gc=False):
    """Reasoning."""

    text: str


class FoundCall(msgspec.Struct, frozen=True, gc=False):
    """A whole call that was found in text. `id` is None where the text had none;"""

    name: str
    arguments: str
    id: str | None = None


class CallPart(msgspec.Struct, frozen=True, gc=False):
    """
    A piece of a call. `id` and `name` are set on the first piece of a call only.

    `is_last` says that no argument text of this call will follow.
    """

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None
    is_last: bool = False


class Untouched(msgspec.Struct, frozen=True):
    """Fields that no rule reads; they go on as they came."""

    fields: dict[str, object]


Part = Text | Thought | CallPart | Untouched
