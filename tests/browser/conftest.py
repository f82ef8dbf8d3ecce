"""Fixtures of the tests in a browser."""

from pathlib import Path

import pytest

from tests.browser import chromium

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def installed():
    """See to it that there is a Chromium."""
    try:
        chromium.find_or_install()
    except chromium.NoChromium as exc:
        pytest.fail(str(exc), pytrace=False)


@pytest.fixture
async def browser(installed):
    async with chromium.start() as started:
        yield started
