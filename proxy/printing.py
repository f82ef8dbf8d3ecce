"""What a command writes for people and programs: to an output whose reader may go before the end, as `| head` does."""

import os
import sys


def write_line(text: str) -> None:
    """
    Write `text` and a line feed to standard output, at once.

    What the output's encoding does not have is escaped. Once nobody reads, all that follows is dropped: the command
    goes on, and its exit code is what it found.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:  # what is left in the buffer has nowhere to go, and Python would complain at the end
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
