"""
The proxy, unchanged, that also tells how many tasks it has: `python -m tests.soak.watched serve ...`.

On SIGUSR2 it writes the number of its asyncio tasks to the file that SOAK_TASKS names.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from proxy.cli import main


def tell(_: int, __: FrameType | None) -> None:
    """Write the number, in one step."""
    path = Path(os.environ["SOAK_TASKS"])
    unfinished = path.with_suffix(".new")
    unfinished.write_text(str(len(asyncio.all_tasks(asyncio.get_running_loop()))))
    unfinished.rename(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, tell)
    sys.exit(main())
