"""
Which shortcuts the hot path takes: how far it leaves aiohttp's own objects.

    none      web.Response and web.StreamResponse to the client, ClientSession.request to the model server
    answer    + answers to the client are written as one buffer                        edge/answer.py
    upstream  + requests go out on the session's pool, below ClientSession.request     upstream/exchange.py
    push      + pieces of a stream go from socket to socket without a switch of tasks  edge/relay.py

Each says and does the same as the plain way: tests/edge/test_shortcuts.py compares them byte by byte.

What the proxy's processor time becomes, side by side (2026-11-23, CPython 3.11.7, two shared cores, 8 to 14 rounds):

    answer    0.92 of none for a short request, 0.86 for a paced event
    upstream  0.49 of none for a short request
    push      0.87 of upstream for an event of 500 paced streams; nothing, or 5% more, where one read brings many
"""

from typing import Final, Literal

import aiohttp

from proxy.config import Config

#: The shortcuts lean on parts of aiohttp that are exported and not documented: with another release, none is taken.
TESTED_AIOHTTP: Final = (3, 14)

_ORDER: Final = ("none", "answer", "upstream", "push")


def takes(config: Config, shortcut: Literal["answer", "upstream", "push"]) -> bool:
    """Whether the configuration wants `shortcut`, and this aiohttp is one that it was tested with."""
    return is_tested(aiohttp.__version__) and _ORDER.index(config.shortcuts) >= _ORDER.index(shortcut)


def is_tested(version: str) -> bool:
    """Whether the shortcuts were tested with this release of aiohttp."""
    return tuple(version.split(".")[:2]) == tuple(map(str, TESTED_AIOHTTP))
