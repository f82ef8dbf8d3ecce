"""
Stored figures of instructions, and what is said about new ones.

A figure holds for one `Basis`: interpreter, processor architecture and the libraries in C that translation calls.
instructions.json has one entry for each basis on which figures were stored.
"""

import json
import platform
from collections.abc import Mapping
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

STORED: Final = Path(__file__).parent / "instructions.json"

#: How far a figure may be above the one that was stored on the same basis. The same code on a processor without some
#: of the vector instructions, for which libc copies bytes in another way, was up to 0.06 off.
LIMIT: Final = 0.10
#: The same when only the first two numbers of the version of Python and the machine are equal: Debian's
#: 3.11.2, built with profiles, was up to 0.11 below a plain build of 3.11.7.
LIMIT_NEARBY: Final = 0.25


class Basis(NamedTuple):
    """What changes the number of instructions without a change of ours."""

    python: str
    compiler: str
    machine: str
    msgspec: str
    orjson: str

    def __str__(self) -> str:
        libraries = f"msgspec {self.msgspec}, orjson {self.orjson}"
        return f"CPython {self.python} ({self.compiler}), {self.machine}, {libraries}"

    @property
    def minor(self) -> list[str]:
        """The first two numbers of the interpreter's version."""
        return self.python.split(".")[:2]


class Entry(NamedTuple):
    """Figures by case, in instructions per unit of the case, and the basis on which they were counted."""

    basis: Basis
    figures: dict[str, int]


class Verdict(Enum):
    """What is said about one case."""

    WITHIN = "within"
    EXCEEDED = "EXCEEDED"
    NOT_STORED = "no stored figure"


class Judgement(NamedTuple):
    """One case, what was counted, what was stored (0 if nothing was), and the verdict."""

    case: str
    counted: int
    stored: int
    verdict: Verdict

    @property
    def change(self) -> float:
        """By which part of the stored figure the new one is higher; negative if it is lower."""
        return self.counted / self.stored - 1 if self.stored else 0.0


def this_basis() -> Basis:
    """Return the basis of this process."""
    return Basis(
        python=platform.python_version(),
        compiler=platform.python_compiler(),
        machine=platform.machine(),
        msgspec=version("msgspec"),
        orjson=version("orjson"),
    )


def nearest(entries: list[Entry], basis: Basis) -> Entry | None:
    """Return the entry of this basis, else the most similar one of the same Python and machine, else None."""
    alike = [e for e in entries if e.basis.minor == basis.minor and e.basis.machine == basis.machine]
    return max(alike, key=lambda entry: _likeness(entry.basis, basis), default=None)


def _likeness(one: Basis, other: Basis) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def judge(counted: Mapping[str, int], stored: Mapping[str, int], limit: float) -> list[Judgement]:
    """Return a judgement for each case that was counted; `limit` is a part of the stored figure, above it."""
    return [_judged(case, figure, stored.get(case, 0), limit) for case, figure in counted.items()]


def _judged(case: str, counted: int, stored: int, limit: float) -> Judgement:
    if not stored:
        return Judgement(case, counted, stored, Verdict.NOT_STORED)
    exceeded = counted > stored * (1 + limit)
    return Judgement(case, counted, stored, Verdict.EXCEEDED if exceeded else Verdict.WITHIN)


def read_entries(path: Path = STORED) -> list[Entry]:
    """Return all that was stored, nothing if there is no file."""
    if not path.exists():
        return []
    return [Entry(Basis(**entry["basis"]), entry["figures"]) for entry in json.loads(path.read_text())]


def write_entry(entry: Entry, path: Path = STORED) -> None:
    """Store the entry in place of one with the same basis."""
    others = [other for other in read_entries(path) if other.basis != entry.basis]
    data: list[Any] = [{"basis": e.basis._asdict(), "figures": e.figures} for e in sorted([*others, entry])]
    path.write_text(json.dumps(data, indent=2) + "\n")
