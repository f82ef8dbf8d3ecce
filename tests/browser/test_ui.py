"""The status page in a real browser: live numbers, a timeline, the keyboard, light and dark, and who listens to it."""

import asyncio
import json
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.access.keys import encode_entries, new_key
from proxy.config import Backend, Tier
from proxy.demo import DemoUpstream
from tests.fakes import until

#: Where to leave pictures for people; else they are looked at by nobody.
PICTURES = os.environ.get("TEST_PICTURES", "")

FOCUSABLE = "a[href], button, input, [tabindex='0']"


@pytest.fixture
async def upstream():
    upstream = DemoUpstream()
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture
async def proxy(start_proxy, upstream):
    """A proxy with two replicas, one of which is down."""
    backends = (
        Backend(url=upstream.url, name="gpu-1", zone="eu-1a"),
        Backend(url="http://127.0.0.1:9", name="gpu-2", zone="eu-1b"),
    )
    return await start_proxy("", backends=backends)


async def ask(proxy, **fields):
    async with proxy.chat(**fields) as response:
        return await response.read()


@asynccontextmanager
async def traffic(proxy):
    """Requests one after the other, streamed and whole, some mended and some wrong."""

    async def go_on():
        for number in range(10**6):
            await ask(proxy, stream=number % 3 != 2, messages=[{"role": "developer", "content": "Hi"}, USER])
            if number % 7 == 0:
                await ask(proxy, messages="none")
            await asyncio.sleep(0.05)

    task = asyncio.ensure_future(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


USER = {"role": "user", "content": "Hello"}


async def picture(page, name, folder):
    await page.screenshot((Path(PICTURES) if PICTURES else folder) / f"{name}.png")


def text(selector):
    return f"document.querySelector({selector!r}).textContent"


async def test_it_shows_live_numbers_under_traffic_and_asks_nobody_else(browser, proxy, tmp_path):
    async with traffic(proxy):
        page = await browser.open(f"{proxy.url}/ui", height=1400)
        await page.wait_for(f"parseFloat({text('#rate')}) > 0")
        await page.wait_for(f"{text('#latency tbody tr:nth-child(2) td:last-child')} > 3")
        await page.wait_for("document.querySelector('#rules tbody').textContent.includes('developer_to_system')")
        first = await page.wait_for(text("#recent tbody th button"))
        await page.wait_for(f"{text('#recent tbody th button')} !== {json.dumps(first)}")
        await page.wait_for("document.getElementById('rate-line').points.numberOfItems > 3")
        rows = await page.evaluate(
            "[...document.querySelectorAll('#replicas tbody tr')].map(row => [...row.cells].map(c => c.textContent))"
        )
        errors = await page.evaluate(text("#errors tbody"))
        await picture(page, "light", tmp_path)
        await page.prefer(color_scheme="dark")
        await picture(page, "dark", tmp_path)

    assert [(row[0], row[1], row[2], row[6]) for row in rows] == [
        ("gpu-2", "open", "unhealthy", "eu-1b"),
        ("gpu-1", "closed", "healthy", "eu-1a"),
    ]
    assert "invalid_request" in errors
    assert (page.complaints, page.violations, page.origins) == ([], [], {proxy.url})
    assert {request.url.removeprefix(proxy.url) for request in page.requests} <= {
        *("/ui", "/ui/events", "/ui/assets/status.js", "/ui/assets/status.css", "/ui/assets/icon.svg")
    }


async def test_light_and_dark_are_two_and_each_can_be_read(browser, proxy):
    page = await browser.open(f"{proxy.url}/ui")
    await page.wait_for("!document.getElementById('shown').hidden")
    grounds = []
    for scheme in ("light", "dark"):
        await page.prefer(color_scheme=scheme)
        grounds.append(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert await page.evaluate(FAINTEST) >= 4.5

    assert grounds[0] != grounds[1]


#: The lowest contrast of any text on the page with what is behind it (WCAG 2.2, 1.4.3).
FAINTEST = """
(() => {
  const parts = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((parts(color)[3] ?? 1) === 1) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const shown = [...document.querySelectorAll('body *')].filter((element) => element.checkVisibility()
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return Math.min(...shown.map((element) => {
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  }));
})()
"""


async def test_a_request_has_a_timeline_that_a_keyboard_opens_and_closes(browser, proxy, tmp_path):
    await ask(proxy, stream=True)
    await until(lambda: proxy.log.lines("request"))
    page = await browser.open(f"{proxy.url}/ui")
    name = await page.wait_for("document.querySelector('#recent tbody button')?.textContent")
    await page.evaluate("document.querySelector('#recent tbody button').focus()")
    await page.press("Enter")

    phases = await page.wait_for(
        "[...document.querySelectorAll('#timeline tbody tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    await picture(page, "timeline", tmp_path)
    assert [phase[0] for phase in phases][:2] == [
        "Is read, translated and checked",
        "Connects, and waits for the first byte",
    ]
    assert phases[0][1] == "0 ms"
    assert name in await page.evaluate(text("#timeline-title"))
    assert await page.evaluate("document.activeElement.id") == "timeline"
    await page.evaluate("document.getElementById('timeline-close').focus()")
    await page.press("Enter")
    assert await page.evaluate("document.activeElement.textContent") == name
    assert (page.complaints, page.violations) == ([], [])


async def test_tab_reaches_everything_in_the_order_of_the_page_and_shows_where_it_is(browser, proxy):
    await ask(proxy)
    await until(lambda: proxy.log.lines("request"))
    page = await browser.open(f"{proxy.url}/ui")
    await page.wait_for("document.querySelector('#recent tbody button')")
    expected = await page.evaluate(
        f"[...document.querySelectorAll({FOCUSABLE!r})].filter(e => e.checkVisibility()).map({NAMED})"
    )
    reached = []
    for _ in expected:
        await page.press("Tab")
        reached.append(await page.evaluate(f"({NAMED})(document.activeElement)"))
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"

    assert reached == expected
    assert reached[0] == "Skip to the numbers"
    assert len(reached) >= 8


NAMED = (
    "e => e.getAttribute('aria-labelledby') ? document.getElementById(e.getAttribute('aria-labelledby')).textContent"
    " : e.textContent"
)


async def test_the_skip_link_leads_past_the_head(browser, proxy):
    page = await browser.open(f"{proxy.url}/ui")
    await page.press("Tab")
    await page.press("Enter")

    assert await page.evaluate("document.activeElement.id") == "main"


async def test_who_listens_has_landmarks_names_and_headers_and_is_not_told_every_second(browser, proxy):
    await ask(proxy)
    await until(lambda: proxy.log.lines("request"))
    page = await browser.open(f"{proxy.url}/ui")
    await page.wait_for("document.querySelector('#recent tbody button')")
    tree = await page.accessibility()
    roles = [node.role for node in tree]
    spoken = await page.wait_for(text("#spoken"))
    await page.evaluate(
        "window.told = 0;"
        " new MutationObserver(() => { window.told += 1; }).observe(document.getElementById('spoken'),"
        " {childList: true, characterData: true, subtree: true})"
    )
    await page.evaluate(COUNT_EVENTS)
    async with traffic(proxy):
        await page.wait_for("window.rates >= 4")

    assert {"banner", "main", "contentinfo"} <= set(roles)
    assert [node.name for node in tree if node.role == "heading"] == [
        *("Devstral Proxy", "Now", "Latency", "Replicas", "Last requests", "Last errors", "Rules applied")
    ]
    assert all(node.name for node in tree if node.role in ("button", "link", "textbox", "region", "table"))
    assert roles.count("columnheader") >= 20
    assert roles.count("rowheader") >= 5
    assert spoken.endswith("1 of 2 replicas in use")
    assert await page.evaluate("window.told") <= 1


#: Counts how often a number that changes each time is written.
COUNT_EVENTS = """
window.rates = 0;
new MutationObserver(() => { window.rates += 1; }).observe(document.getElementById('latency-about'),
  {childList: true, characterData: true, subtree: true});
"""


async def test_pause_stops_the_numbers_and_the_page_says_so(browser, proxy):
    page = await browser.open(f"{proxy.url}/ui")
    await page.wait_for("!document.getElementById('shown').hidden")
    await page.click("#pause")
    before = await page.evaluate(text("#rate-more"))
    await ask(proxy)
    await asyncio.sleep(2.5)  # two snapshots, which must not show

    assert await page.evaluate(text("#connection")) == "Paused"
    assert await page.evaluate("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    assert await page.evaluate(text("#rate-more")) == before
    await page.click("#pause")
    await page.wait_for(f"{text('#rate-more')} !== {before!r}")


@pytest.mark.parametrize(("width", "height"), [(360, 740), (768, 1024)])
async def test_nothing_is_wider_than_a_small_screen(browser, proxy, tmp_path, width, height):
    async with traffic(proxy):
        page = await browser.open(f"{proxy.url}/ui", width=width, height=height)
        await page.wait_for("document.querySelectorAll('#recent tbody button').length > 2")
        await page.click("#recent tbody button")
        await picture(page, f"width-{width}", tmp_path)
        await page.evaluate("window.scrollTo(0, 0)")
        await picture(page, f"width-{width}-top", tmp_path)

    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert (page.complaints, page.violations) == ([], [])


async def test_a_key_is_asked_for_kept_in_memory_only_and_sent_in_a_header(browser, start_proxy, upstream, tmp_path):
    key, entry = new_key("olga", "ops", datetime.now(UTC), None)
    other, second = new_key("alice", "", datetime.now(UTC), None)
    keys = encode_entries([entry, second])
    proxy = await start_proxy(upstream.url, keys=keys, tiers={"ops": Tier(operator=True)})
    page = await browser.open(f"{proxy.url}/ui")
    await page.wait_for("document.activeElement.id === 'key'")
    assert await page.evaluate("document.getElementById('shown').hidden")
    await picture(page, "key", tmp_path)
    assert page.complaints == []

    await typed(page, other)
    assert "operator" in await page.wait_for(text("#key-error"))
    await typed(page, key)
    await page.wait_for("!document.getElementById('shown').hidden")

    assert await page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]") == [
        *(0, 0, "", f"{proxy.url}/ui")
    ]
    assert await page.evaluate("document.getElementById('key').value") == ""
    assert key not in await page.evaluate("document.documentElement.outerHTML")
    assert not any(key in request.url or other in request.url for request in page.requests)
    assert page.violations == []
    await page.go(f"{proxy.url}/ui")
    await page.wait_for("document.activeElement.id === 'key'")


async def typed(page, word):
    await page.evaluate("document.getElementById('key').focus()")
    await page.call("Input.insertText", text=word)
    await page.press("Enter")


async def test_a_page_that_loses_its_server_says_so_and_comes_back(browser, proxy):
    page = await browser.open(f"{proxy.url}/ui")
    await page.wait_for("!document.getElementById('shown').hidden")
    proxy.edge.in_flight.is_draining = True
    await page.wait_for(f"{text('#connection')}.startsWith('Connection lost.')")
    proxy.edge.in_flight.is_draining = False
    await page.wait_for(f"{text('#connection')} === 'Live'")


async def test_a_hidden_page_asks_for_nothing(browser, proxy):
    page = await browser.open(f"{proxy.url}/ui")
    await page.wait_for("!document.getElementById('shown').hidden")
    await page.evaluate(
        "Object.defineProperty(document, 'hidden', {configurable: true, get: () => window.isAway ?? true}),"
        " document.dispatchEvent(new Event('visibilitychange'))"
    )
    await until(lambda: not proxy.edge.watch.is_running)
    await page.evaluate("window.isAway = false, document.dispatchEvent(new Event('visibilitychange'))")
    await until(lambda: proxy.edge.watch.is_running)
