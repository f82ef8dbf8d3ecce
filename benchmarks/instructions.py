"""
A guard that needs no clock and no quiet machine: how many instructions does translation execute, and a whole proxy?

    python -m benchmarks.instructions                count every case; fail when one is dearer than its stored figure
    python -m benchmarks.instructions --case NAME    count only this one; may be repeated
    python -m benchmarks.instructions --list         name the cases
    python -m benchmarks.instructions --store        count every case and store the figures
    python -m benchmarks.instructions --require      fail as well when a case has no stored figure

It needs valgrind, whose callgrind counts the instructions in user space. Each case is a process of its own
(counted.py), always with the same inputs, hash seed and environment, without address randomization where that may be
turned off, and with the garbage collector off: collections are in no figure. Two runs of the same code give the same
figure, within 0.1 %. The cases `served-...` are a whole process, with all of that and within 4 % (served.py).

Exit codes: 0 within the limits, 1 above them, 2 when nothing can be counted.
"""

import argparse
import marshal
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks.instruction_cases import CASES, Case
from benchmarks.instruction_figures import (
    LIMIT,
    LIMIT_NEARBY,
    Basis,
    Entry,
    Judgement,
    Verdict,
    judge,
    nearest,
    read_entries,
    this_basis,
    write_entry,
)
from benchmarks.programs import BenchmarkError
from benchmarks.served import SERVED, Served, run_served

ROOT: Final = Path(__file__).parents[1]
AT_ONCE: Final = min(2, os.cpu_count() or 1)

ALL_CASES: Final[Mapping[str, Case | Served]] = MappingProxyType({**SERVED, **CASES})
_TOTALS: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)


class CannotCount(Exception):
    """Nothing can be counted here; the text says why, and what to do."""


def count(arguments: Sequence[str]) -> int:
    """
    Return how many instructions `python ARGUMENTS` executes between its first and its second `os.getppid()`.

    Raises:
        CannotCount: there is no valgrind, the program failed, or valgrind did not see the two calls.
    """

    def run(callgrind: list[str], _: Path) -> None:
        command = [*callgrind, sys.executable, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotCount(f"{' '.join(arguments)} failed under valgrind:\n{done.stderr}")

    return _second_count(run)


def _second_count(run: Callable[[list[str], Path], None]) -> int:
    """
    Return the instructions of the second count. `run` gets the beginning of a command line that counts a program.

    Each call of getppid ends one count and begins the next. They are written to the files .1, .2 behind the path.
    """
    if shutil.which("valgrind") is None:
        raise CannotCount("No valgrind on the PATH: install it (Debian: apt-get install valgrind).")
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        counts = Path(folder) / "counts"
        callgrind = ["valgrind", "-q", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={counts}"]
        run([*_same_addresses(), *callgrind], counts)
        between = Path(f"{counts}.2")
        found = _TOTALS.search(between.read_text()) if between.exists() else None
        if found is None:
            raise CannotCount("valgrind does not see this Python's calls of getppid: is libc linked statically?")
        return int(found[1])


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}


def _same_addresses() -> list[str]:
    """Return the command that turns address randomization off, nothing where a container forbids it."""
    command = ["setarch", "-R"]
    allowed = shutil.which(command[0]) and subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if allowed and allowed.returncode == 0 else []


def count_case(name: str) -> int:
    """Return the instructions for one unit of that case."""
    if name in SERVED:
        served = SERVED[name]
        try:
            return round(_second_count(partial(run_served, name)) / (served.requests * served.units))
        except BenchmarkError as exc:
            raise CannotCount(f"{name}: {exc}") from None
    case = CASES[name]
    work = case.make_work()
    with tempfile.NamedTemporaryFile(prefix="work-") as file:
        marshal.dump(dict(work), file)
        file.flush()
        total = count(["-m", "benchmarks.counted", file.name])
    return round(total / (len(work["counted"]) * case.units))


def count_cases(names: Sequence[str]) -> dict[str, int]:
    """Return the figures by case; those of the core are counted by two processes at once, after the others."""
    # Code that was compiled just now costs up to 2 % more than the same code read from its cache: fill the cache.
    subprocess.run([sys.executable, "-c", "import benchmarks.counted"], cwd=ROOT, env=_environment(), check=True)
    served = {name: count_case(name) for name in names if name in SERVED}
    core = [name for name in names if name not in SERVED]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return served | dict(zip(core, threads.map(count_case, core), strict=True))


def compared(counted: dict[str, int], basis: Basis, entries: list[Entry]) -> tuple[list[Judgement], str]:
    """Return the judgements, and a sentence on what the figures were compared with."""
    entry = nearest(entries, basis)
    if entry is None:
        return judge(counted, {}, LIMIT), "No stored figure for this basis or a nearby one: store with --store."
    if entry.basis == basis:
        return judge(counted, entry.figures, LIMIT), f"Compared with what was stored on this basis, limit +{LIMIT:.0%}."
    told = f"No stored figure for this basis: compared with the nearest, {entry.basis}, limit +{LIMIT_NEARBY:.0%}."
    return judge(counted, entry.figures, LIMIT_NEARBY), told


def table(judgements: list[Judgement]) -> str:
    """Return the judgements as lines for people."""
    head = f"{'case':36} {'per':8} {'instructions':>13} {'stored':>13} {'change':>8}"
    return "\n".join([head, *(_line(judgement) for judgement in judgements)])


def _line(judgement: Judgement) -> str:
    case, counted, stored, verdict = judgement
    before = f"{stored:13,} {judgement.change:+8.2%}" if stored else f"{'-':>13} {'-':>8}"
    return f"{case:36} {ALL_CASES[case].per:8} {counted:13,} {before}  {verdict.value}"


def exit_code(judgements: list[Judgement], *, require: bool) -> int:
    """Return 1 if a case is above its limit, or has no stored figure and has to."""
    verdicts = {judgement.verdict for judgement in judgements}
    return int(Verdict.EXCEEDED in verdicts or (require and Verdict.NOT_STORED in verdicts))


def main() -> int:
    """Count, print, and judge or store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions")
    parser.add_argument("--case", action="append", choices=list(ALL_CASES), metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--require", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(ALL_CASES))
        return 0
    if arguments.store and arguments.case:
        parser.error("--store stores every case: leave out --case")
    try:
        counted = count_cases(arguments.case or list(ALL_CASES))
    except CannotCount as exc:
        print(exc, file=sys.stderr)
        return 2
    basis = this_basis()
    if arguments.store:
        write_entry(Entry(basis, counted))
    judgements, told = compared(counted, basis, read_entries())
    print(f"{basis}\n{told}\n\n{table(judgements)}")
    return exit_code(judgements, require=arguments.require)


if __name__ == "__main__":
    sys.exit(main())
