"""Asking a judge: one subprocess per mistral-common, in its own environment, for the whole run."""

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: The oldest still behind vLLM servers in use, which is strict, and the newest (protocol breaks lie between them).
LIBRARIES = ("1.8.8", "1.13.1")
DEADLINE_S = 120


class Judge:
    """A running judge. `tokenizers` and `templates` are the versions it knows."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        hello = self._next()
        self.library: str = hello["library"]
        self.tokenizers: list[str] = hello["tokenizers"]
        self.templates: list[str] = hello["templates"]

    def rejections(self, questions: Iterable[dict[str, Any]]) -> dict[str, dict[str, str]]:
        """
        Return why each question's request is rejected, by the question's name; what is accepted is not named.

        Raises:
            RuntimeError: the judge ended or said nothing for `DEADLINE_S`.
        """
        asked = list(questions)
        for question in asked:
            self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answers = [self._next() for _ in asked]
        return {answer["name"]: answer["rejections"] for answer in answers if answer["rejections"]}

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _next(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=DEADLINE_S)
        except queue.Empty:
            line = ""
        if not line:
            raise RuntimeError(f"the judge ended or is stuck; it wrote:\n{self._log.read_text()[-2000:]}")
        return json.loads(line)


@contextlib.contextmanager
def running_judge(library: str, folder: Path) -> Iterator[Judge]:
    """Start the judge with that mistral-common; end it at the end of the block."""
    python = ROOT / f".venv-oracle-{library}" / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"{python} is missing: `make oracle` sets it up")
    log = folder / f"judge-{library}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(python), str(ROOT / "tests/oracle/judge.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
    with process:
        try:
            yield Judge(process, log)
        finally:
            process.kill()
