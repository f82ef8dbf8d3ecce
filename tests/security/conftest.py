"""What the tests of security share: both ways of the hot path."""

from typing import Any

import pytest


@pytest.fixture(params=["push", "none"])
def shortcuts(request: pytest.FixtureRequest) -> Any:
    """The hot path with all of its shortcuts, and without any: for `start_proxy(..., shortcuts=shortcuts)`."""
    return request.param
