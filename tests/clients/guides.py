"""
The README's guides, and how they are followed: what a guide says is what is written and run here.

In a guide a fenced block behind a line that ends with a path in backquotes and a colon is that file; a block of `sh` is
what is typed in the project's folder; a block of `python` or `js` is a program. `http://127.0.0.1:9000` and `your-key`
stand for the proxy's address and key, and nothing else is changed.
"""

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS, KEY = "http://127.0.0.1:9000", "your-key"
#: Some of these clients take ten seconds to start when the machine is busy.
DEADLINE_S: Final = 240

_BLOCK: Final = re.compile(r"(?:^.*?`(?P<path>[^`\n]+)`[^`\n]*:\n+)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


class Guide(NamedTuple):
    """What a section of the README tells to write, to type, and to run."""

    files: dict[str, str]
    commands: str
    programs: dict[str, str]


class Outcome(NamedTuple):
    """How following a guide went."""

    code: int
    out: str
    errors: str


def guide(heading: str) -> Guide:
    """
    Return what the README's section with this heading says.

    Raises:
        ValueError: there is no such section.
    """
    section = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##+ )", README, re.M | re.S)
    if section is None:
        raise ValueError(f"no guide for {heading}")
    files: dict[str, str] = {}
    programs: dict[str, str] = {}
    commands = ""
    for block in _BLOCK.finditer(section[1]):
        if block["kind"] == "sh":
            commands += block["text"]
        elif block["kind"] in ("python", "js"):
            programs[block["kind"]] = block["text"]
        elif block["path"]:
            files[block["path"]] = block["text"]
    return Guide(files, commands, programs)


class Place(NamedTuple):
    """Where a guide is followed: a home and a project of its own, and the programs that are there."""

    home: Path
    project: Path
    programs: tuple[Path, ...]

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the caller's, and nothing beyond this machine: what goes elsewhere meets a closed port."""
        away = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
        here = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        quiet = {"CI": "1", "DO_NOT_TRACK": "1", "NO_COLOR": "1", "TERM": "dumb", "LANG": "C.UTF-8"}
        path = ":".join([*map(str, self.programs), os.environ["PATH"]])
        return {"HOME": str(self.home), "PATH": path, **quiet, **away, **here}


async def follow(told: Guide, place: Place, url: str, key: str, **quiet: str) -> Outcome:
    """Write the guide's files, type its commands or else run its program, and return what came of it."""

    def put_in(text: str) -> str:
        return text.replace(ADDRESS, url).replace(KEY, key)

    for name, text in told.files.items():
        path = place.home / name[2:] if name.startswith("~/") else place.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(put_in(text), encoding="utf-8")
    runners = {"python": ("python", "guide.py"), "js": ("node", "guide.mjs")}
    commands = told.commands
    for kind, text in told.programs.items():
        runner, name = runners[kind]
        (place.project / name).write_text(put_in(text), encoding="utf-8")
        commands += f"{runner} {name}\n"
    return await _typed(put_in(commands), place.project, place.environment | quiet)


async def _typed(commands: str, folder: Path, environment: dict[str, str]) -> Outcome:
    """Run commands as a shell does that stops at the first failure; end all that they leave behind."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-e", "-c", commands),
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, errors = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        end_those_at(environment["HOME"])
    return Outcome(process.returncode or 0, out.decode(errors="replace"), errors.decode(errors="replace"))


def end_those_at(home: str) -> None:
    """End the processes that have this HOME: Cline leaves one behind, in a session of its own. Only Linux tells."""
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"HOME={home}".encode() in entry.read_bytes().split(b"\0"):
                os.kill(int(entry.parent.name), signal.SIGKILL)
