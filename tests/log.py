"""What another process has written to its log."""

import json
from pathlib import Path
from typing import Any


def log_lines(path: Path, *events: str) -> list[dict[str, Any]]:
    """Return the lines with one of these events, as far as they are whole: one that is being written may be seen."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [line for line in map(json.loads, text.rpartition("\n")[0].splitlines()) if line["event"] in events]
