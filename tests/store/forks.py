"""Forked processes that share what was made before, as the workers do."""

import os
import signal
import traceback
from collections.abc import Callable, Sequence


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def wait(pids: Sequence[int]) -> None:
    """Return when all have ended, as they should."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * len(pids)


def kill(pid: int) -> None:
    """End a forked process at once."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
