"""
New JSON out of old, by its structure: values swapped, taken from elsewhere, repeated, removed, renamed, nested.

An input is never parsed into objects: keys given twice, numbers that no type holds and lone surrogates would be lost
on the way. A scan notes where each value stands, and an edit cuts and joins bytes there. Now and then bytes are mutated
too (`mutate`), so that text that is nearly JSON comes as well.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import NamedTuple

from tests.fuzz.mutate import LONGEST
from tests.fuzz.mutate import mutated as mutated_bytes

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)

#: How many inputs' places are remembered: more than a corpus has files.
_REMEMBERED = 4096


class Node(NamedTuple):
    """Where a value stands: `start` to `end`; `item` is where its key begins, or the value where it has none."""

    item: int
    start: int
    end: int


#: Values of every type, at the edges of what types hold, one a line.
_SCALARS = rb"""
null true false 0 -1 1 0.5 2 1.5 -0 -0.0 1e5 1E+2 1e999 -1e999 1e-999 9223372036854775807 9223372036854775808
18446744073709551616 -9223372036854775809 NaN -Infinity [] {} [[]] {"":{}} ["a","b"] [null] [0] "" "x" "\ud800"
"\udc00x" "\ud83d\ude00" "\u0000" "\u2028" "\u00e9" "\/\b\f" "user" "system" "developer" "assistant" "tool" "function"
"tool_results" "narrator" "auto" "none" "required" "any" "true" "text" "abcDEF123" "call_abcDEF123" "call_1"
"{\"a\":1}" "{\"a\":" "{\"a\":1}}" "[TOOL_CALLS]" "[/INST]" "data:text/plain;base64,!"
"""
#: Values that mean something to a rule.
_MEANINGFUL = rb"""
{"type":"text","text":"part"}
[{"type":"text","text":"part"}]
[{"type":"input_text","text":"part"}]
[{"type":"thinking","thinking":"hm"}]
{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}
{"type":"file","file":{"filename":"a","file_data":"data:text/plain;base64,aGk="}}
{"type":"refusal"}
{"type":"custom","name":"c"}
{"type":"function","function":{"name":"get_time","parameters":{"type":"object"}}}
{"type":"function","function":{"name":"get_time"}}
{"type":"function","name":"get time"}
{"type":"mcp"}
{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"name":"get_time"}]}}
{"type":"json_object"}
{"effort":"low"}
[{"id":"call_1","type":"function","function":{"name":"get_time","arguments":"{}"}}]
{"role":"user","content":"Hi"}
{"role":"tool","tool_call_id":"call_1","content":"5"}
{"role":"assistant"}
{"role":"assistant","tool_calls":[{"id":"call_1","type":"function","function":{"name":"get_time","arguments":"{"}}]}
"""
VALUES = (
    *_SCALARS.split(),
    *_MEANINGFUL.strip().split(b"\n"),
    *(b'" "', b'"\xed\xa0\x80"', b'"\xff"', b'"\xf0\x9f\x98\x80"', b'"' + b"long " * 300 + b'"'),
    *(b"9" * 400, b"9" * 5000, b"0." + b"3" * 400),
    *(b"[" * 400 + b"]" * 400, b"[" * 2000 + b"]" * 2000, b'{"a":' * 400 + b"1" + b"}" * 400),
)

_NAMES = rb"""
role content name tool_calls tool_call_id function_call refusal prefix reasoning reasoning_content thinking_blocks
reasoning_details id type function arguments index text image_url url source file file_data filename data thinking
closed parameters description strict properties required $ref $defs nullable enum items anyOf exclusiveMinimum const
custom input parsed_arguments cache_control model messages tools tool_choice functions parallel_tool_calls stream
stream_options include_usage max_tokens max_completion_tokens temperature top_p n stop seed random_seed logprobs
top_logprobs response_format json_schema schema reasoning_effort effort chat_template chat_template_kwargs
continue_final_message add_generation_prompt safe_prompt prompt_mode skip_special_tokens user metadata x \u0072ole
ro\u006ce \ud800 __proto__ api_base
"""
KEYS = (*_NAMES.split(), b"", b"\xff", b"\xc3\xa9")

#: What is put inside a string.
_TEXTS = (
    *rb"\u0000 \ud800 \udc00 \ud83d\ude00 \n \n\n \\ \" [TOOL_CALLS] </s> { } 9 \u2028 null".split(),
    *(b" ", b"\xf0\x9f\x98\x80", b"\xff", b"\xed\xa0\x80", b"\x00", b"\n", b"x" * 600),
)


@lru_cache(_REMEMBERED)
def nodes_of(text: bytes) -> tuple[Node, ...]:
    """Return where each value stands, outermost last within its holder; of text that is no JSON, what was whole."""
    found: list[Node] = []
    open_at: list[tuple[int, int]] = []
    item: int | None = None
    last: tuple[int, int] | None = None
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        first = text[start]
        if first in b"[{":
            open_at.append((start if item is None else item, start))
            item = None
        elif first in b"]}":
            if not open_at:
                break
            found.append(Node(*open_at.pop(), end))
            item = None
        elif first in b":":
            if last is None or not found:
                break
            found.pop()  # what was taken for a value is a key
            item = last[0]
        elif first in b",":
            item = None
        else:
            found.append(Node(start if item is None else item, start, end))
            item = None
        last = (start, end)
    return tuple(found)


def mutated(corpus: Sequence[bytes], chance: Random) -> bytes:
    """Return one input of the corpus after one to four edits of its structure, sometimes with mutated bytes as well."""
    kind = chance.random()
    if kind < 0.1:
        return mutated_bytes(corpus, chance)
    text = chance.choice(corpus)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        nodes = nodes_of(text)
        if not nodes:
            return mutated_bytes(corpus, chance)
        edited = chance.choice(EDITS)(text, nodes, corpus, chance)
        if len(edited) > 2 * LONGEST:
            break
        text = edited
        if len(text) > LONGEST:
            break
    return mutated_bytes((text,), chance) if kind > 0.97 else text


Edit = Callable[[bytes, Sequence[Node], Sequence[bytes], Random], bytes]


def _value(corpus: Sequence[bytes], chance: Random) -> bytes:
    """Return a value: one of the list, or one that stands somewhere in the corpus."""
    if chance.random() < 0.6:
        return chance.choice(VALUES)
    other = chance.choice(corpus)
    nodes = nodes_of(other)
    if not nodes:
        return b"null"
    node = chance.choice(nodes)
    return other[node.start : node.end]


def _replaced(text: bytes, nodes: Sequence[Node], corpus: Sequence[bytes], chance: Random) -> bytes:
    node = chance.choice(nodes)
    return text[: node.start] + _value(corpus, chance) + text[node.end :]


def _removed(text: bytes, nodes: Sequence[Node], _corpus: Sequence[bytes], chance: Random) -> bytes:
    """Leave out a value, with its key and one comma."""
    node = chance.choice(nodes)
    before, after = text[: node.item].rstrip(), text[node.end :].lstrip()
    if after.startswith(b","):
        return before + after[1:]
    return before.removesuffix(b",") + after


def _repeated(text: bytes, nodes: Sequence[Node], _corpus: Sequence[bytes], chance: Random) -> bytes:
    """Give a value again behind itself: a key twice in an object, an item twice in a list."""
    node = chance.choice(nodes)
    again = b"," + text[node.item : node.end]
    return text[: node.end] + again * chance.choice((1, 1, 1, 2, 3, 20)) + text[node.end :]


def _with_another_key(text: bytes, nodes: Sequence[Node], _corpus: Sequence[bytes], chance: Random) -> bytes:
    node = chance.choice(nodes)
    if node.item == node.start:
        return text
    return text[: node.item] + b'"' + chance.choice(KEYS) + b'":' + text[node.start :]


def _with_one_more(text: bytes, nodes: Sequence[Node], corpus: Sequence[bytes], chance: Random) -> bytes:
    """Put a value beside another one: under a key in an object."""
    node = chance.choice(nodes)
    key = b"" if node.item == node.start else b'"' + chance.choice(KEYS) + b'":'
    new = key + _value(corpus, chance)
    if chance.random() < 0.5:
        return text[: node.item] + new + b"," + text[node.item :]
    return text[: node.end] + b"," + new + text[node.end :]


def _swapped(text: bytes, nodes: Sequence[Node], _corpus: Sequence[bytes], chance: Random) -> bytes:
    """Let two values change their places: messages, contents, or a message and a number."""
    one, other = sorted((chance.choice(nodes), chance.choice(nodes)), key=lambda node: node.start)
    if one.end > other.start:
        return text
    return b"".join((
        text[: one.start], text[other.start : other.end], text[one.end : other.start], text[one.start : one.end],
        text[other.end :],
    ))  # fmt: skip


def _nested(text: bytes, nodes: Sequence[Node], _corpus: Sequence[bytes], chance: Random) -> bytes:
    node = chance.choice(nodes)
    depth = chance.choice((1, 1, 2, 20, 200, 1100))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"content":', b"}"), (b'{"a":', b"}")))
    return text[: node.start] + opening * depth + text[node.start : node.end] + closing * depth + text[node.end :]


def _with_odd_text(text: bytes, nodes: Sequence[Node], _corpus: Sequence[bytes], chance: Random) -> bytes:
    """Put odd text inside a string; of a value that is none, at its end."""
    node = chance.choice(nodes)
    at = chance.randint(node.start + 1, node.end - 1) if node.end - node.start > 1 else node.end
    return text[:at] + chance.choice(_TEXTS) + text[at:]


def _spaced(text: bytes, nodes: Sequence[Node], _corpus: Sequence[bytes], chance: Random) -> bytes:
    node = chance.choice(nodes)
    return text[: node.start] + chance.choice((b" ", b"\n", b"\t\r\n", b" " * 300)) + text[node.start :]


EDITS: tuple[Edit, ...] = (
    *(_replaced, _replaced, _replaced, _removed, _repeated, _with_another_key, _with_one_more, _with_one_more),
    *(_swapped, _nested, _with_odd_text, _spaced),
)
