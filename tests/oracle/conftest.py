"""The judges, started once per run."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.oracle.judges import LIBRARIES, Judge, running_judge


@pytest.fixture(scope="session")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Judge]]:
    folder = tmp_path_factory.mktemp("judges")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(running_judge(library, folder)) for library in LIBRARIES]
