"""All rows, in the order in which they run: what may put a gateway out of service comes late, its end last."""

from collections.abc import Iterable
from typing import Final

from tests.kit.row import Row
from tests.kit.rows import bodies, calls, connections, cuts, ending, exposure, failures, leaving, relaying, repairs

ROWS: Final[tuple[Row, ...]] = (
    *relaying.ROWS,
    *calls.ROWS,
    *exposure.ROWS,
    *bodies.ROWS,
    *calls.MISTRAL_ROWS,
    *repairs.ROWS,
    *leaving.ROWS,
    *cuts.ROWS,
    *failures.ERROR_ROWS,
    *connections.ROWS,
    *failures.RETRY_ROWS,
    *ending.ROWS,
)


def chosen(names: Iterable[str]) -> tuple[Row, ...]:
    """
    Return the rows of these ids or beginnings of ids (F01, F03a); all where there are none.

    Raises:
        ValueError: a name is of no row.
    """
    wanted = [name.strip().upper() for name in names if name.strip()]
    if unknown := [name for name in wanted if not any(row.id.upper().startswith(name) for row in ROWS)]:
        raise ValueError(f"no row is called {', '.join(unknown)}; the rows: {', '.join(row.id for row in ROWS)}")
    return tuple(row for row in ROWS if not wanted or any(row.id.upper().startswith(name) for name in wanted))
