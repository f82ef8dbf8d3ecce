"""
Where two JSON texts differ: first which members and items, then which lines of each.

A request is compared message by message and tool by tool, so that one that was put in or taken out does not make all
that follow it look changed. The order of keys and white space do not count.
"""

import json
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Raw

from proxy.explain.document import Line, lines_of, ordered_like, plain_of, shortened
from proxy.translate.chat import JsonPath, path_text

_ITEMISED: Final = ("messages", "tools", "choices")
_CONTEXT: Final = 2

_members_decoder = msgspec.json.Decoder(dict[str, Raw])
_items_decoder = msgspec.json.Decoder(list[Raw])


class Change(NamedTuple):
    """
    One member or item that differs. `was` and `now` are its places, None where it is not there.

    With both places and the same text it has moved.
    """

    was: JsonPath | None
    now: JsonPath | None
    before: bytes
    after: bytes

    @property
    def place(self) -> JsonPath:
        """Where it is now, or was last."""
        return self.now or self.was or ()

    @property
    def verb(self) -> Literal["added", "removed", "moved", "changed"]:
        """What happened to it."""
        if self.was is None:
            return "added"
        if self.now is None:
            return "removed"
        return "moved" if self.was != self.now and self.before == self.after else "changed"


class DiffLine(NamedTuple):
    """A line of a difference; "…" stands for lines that are left out."""

    sign: Literal["-", "+", " ", "…"]
    text: str
    path: JsonPath


def changes_between(before: bytes, after: bytes) -> list[Change]:
    """Return where two JSON objects differ, member by member, and item by item in lists of messages and tools."""
    was, now = _members_decoder.decode(before), _members_decoder.decode(after)
    found: list[Change] = []
    for name in dict.fromkeys((*was, *now)):
        if name in _ITEMISED and name in was and name in now and _are_lists(was[name], now[name]):
            found += _item_changes(name, _items_decoder.decode(was[name]), _items_decoder.decode(now[name]))
            continue
        old, new = (bytes(members[name]) if name in members else None for members in (was, now))
        if old is None or new is None or _key(old) != _key(new):
            found.append(
                Change(None if old is None else (name,), None if new is None else (name,), old or b"", new or b"")
            )
    return found


def _are_lists(*raws: Raw) -> bool:
    return all(bytes(raw).startswith(b"[") for raw in raws)


def _key(text: bytes) -> str:
    """What a JSON text says, in one form; NUL tells a number from a string of the same digits."""
    value = json.loads(text, parse_int="\0{}".format, parse_float="\0{}".format, parse_constant="\0{}".format)
    return json.dumps(value, sort_keys=True)


def _item_changes(name: str, was: Sequence[Raw], now: Sequence[Raw]) -> list[Change]:
    before, after = [bytes(raw) for raw in was], [bytes(raw) for raw in now]
    old_keys, new_keys = [_key(text) for text in before], [_key(text) for text in after]
    found: list[Change] = []
    gone: dict[str, list[int]] = {}
    for tag, i, i_end, j, j_end in SequenceMatcher(None, old_keys, new_keys, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        common = min(i_end - i, j_end - j)
        found += [Change((name, i + k), (name, j + k), before[i + k], after[j + k]) for k in range(common)]
        found += [Change(None, (name, k), b"", after[k]) for k in range(j + common, j_end)]
        for k in range(i + common, i_end):
            found.append(Change((name, k), None, before[k], b""))
            gone.setdefault(old_keys[k], []).append(k)
    return list(_with_moves(found, gone, before))


def _with_moves(found: list[Change], gone: dict[str, list[int]], before: list[bytes]) -> Iterator[Change]:
    """Tell an item that went and came elsewhere as one that moved."""
    moved: set[JsonPath] = set()
    moves: dict[JsonPath, Change] = {}
    for change in found:
        if change.was is None and change.now is not None and (places := gone.get(_key(change.after))):
            was: JsonPath = (change.now[0], places.pop(0))
            moved.add(was)
            moves[change.now] = Change(was, change.now, change.after, change.after)
    for change in found:
        if change.was is None and change.now in moves:
            yield moves[change.now]
        elif change.now is not None or change.was not in moved:
            yield change


def diff_lines(change: Change, *, full: bool = False) -> list[DiffLine]:
    """Return the lines of a change that differ, with two more around them; `full` leaves long values whole."""
    if change.verb == "moved":
        return []
    before = plain_of(change.before) if change.before else None
    after = ordered_like(plain_of(change.after), before) if change.after else None
    old = lines_of(before, change.place) if change.was is not None else []
    new = lines_of(after, change.place) if change.now is not None else []
    return list(_compared(old, new, full))


def _compared(old: list[Line], new: list[Line], full: bool) -> Iterator[DiffLine]:
    matcher = SequenceMatcher(None, [line.said for line in old], [line.said for line in new])
    at = 0
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        if group[0][3] > at:
            yield DiffLine("…", "", ())
        for tag, i, i_end, j, j_end in group:
            if tag == "equal":
                yield from (_shown(" ", line, None, full) for line in new[j:j_end])
                continue
            ours, theirs = old[i:i_end], new[j:j_end]
            yield from (_shown("-", line, _partner(k, theirs), full) for k, line in enumerate(ours))
            yield from (_shown("+", line, _partner(k, ours), full) for k, line in enumerate(theirs))
        at = group[-1][4]
    if 0 < at < len(new):
        yield DiffLine("…", "", ())


def _partner(k: int, lines: list[Line]) -> Line | None:
    return lines[k] if k < len(lines) else None


def _shown(sign: Literal["-", "+", " "], line: Line, partner: Line | None, full: bool) -> DiffLine:
    value = line.value if full else shortened(line.value, partner.value if partner is not None else "")
    return DiffLine(sign, f"{line.head}{value}{line.comma}", line.path)


def changed_paths(changes: Sequence[Change]) -> list[str]:
    """Return the places that differ, each once, none inside another one."""
    paths: dict[JsonPath, None] = {}
    for change in changes:
        if change.verb == "changed":
            lines = diff_lines(change)
            paths.update(dict.fromkeys(line.path for line in lines if line.sign in "-+"))
        else:
            paths[change.place] = None
    outer = [path for path in paths if not any(path[:n] in paths for n in range(len(path)))]
    return [path_text(path) for path in outer]


def value_at(value: Any, path: JsonPath) -> tuple[Any, JsonPath]:
    """Return what stands at `path`, or at the deepest part of it that is there, and that part."""
    for depth, key in enumerate(path):
        is_there = key in value if isinstance(value, dict) else isinstance(value, list) and key in range(len(value))
        if not is_there:
            return value, path[:depth]
        value = value[key]
    return value, path
