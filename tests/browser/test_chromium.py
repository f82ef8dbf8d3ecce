"""The driver sees what a page does wrong: the tests of pages rest on it."""

from contextlib import asynccontextmanager

from aiohttp import web

from tests.browser.chromium import Request, Violation

ELSEWHERE = "http://elsewhere.example"


@asynccontextmanager
async def serving(body, policy="default-src *"):
    """A server with one page; yields its address."""

    async def answer(request):
        return web.Response(text=body, content_type="text/html", headers={"Content-Security-Policy": policy})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "http://127.0.0.1:{1}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def test_what_a_policy_blocks_is_a_violation_and_a_complaint(browser):
    body = "<style>p{color:red}</style><script>document.title = 1</script><img src='data:image/png,'>"
    async with serving(body, "default-src 'none'") as url:
        page = await browser.open(url)
        await page.wait_for("document.readyState == 'complete'")

        assert Violation("style-src-elem", "kInlineViolation", "") in page.violations
        assert Violation("script-src-elem", "kInlineViolation", "") in page.violations
        assert "img-src" in {violation.directive for violation in page.violations}
        assert len(page.complaints) >= 3


async def test_a_request_to_another_origin_is_seen_and_gets_nowhere(browser):
    body = f"<img src='{ELSEWHERE}/pixel.png'>"
    async with serving(body) as url:
        page = await browser.open(url)

        assert Request("GET", f"{ELSEWHERE}/pixel.png", "Image") in page.requests
        assert page.origins == {url, ELSEWHERE}
        assert any("ERR_NAME_NOT_RESOLVED" in line.text for line in page.complaints)


async def test_what_is_thrown_and_what_is_written_is_on_the_console(browser):
    body = "<script>console.warn('careful', 1); null.x</script>"
    async with serving(body, "default-src * 'unsafe-inline'") as url:
        page = await browser.open(url)

        assert ("warning", "careful 1") in page.console
        assert "TypeError" in page.complaints[0].text


async def test_keys_clicks_preferences_sizes_and_the_accessibility_tree(browser, tmp_path):
    body = (
        "<button onclick='this.textContent = `pressed`'>press</button><input aria-label='name'>"
        "<style>body{background:white} @media (prefers-color-scheme:dark){body{background:black}}</style>"
    )
    async with serving(body, "default-src * 'unsafe-inline'") as url:
        page = await browser.open(url, width=400, height=300)
        await page.press("Tab")
        await page.press("Enter")
        assert await page.evaluate("document.querySelector('button').textContent") == "pressed"

        await page.click("input")
        await page.press("a")
        assert await page.evaluate("document.activeElement.value") == "a"

        nodes = await page.accessibility()
        assert {("button", "pressed"), ("textbox", "name")} <= {node[:2] for node in nodes}
        await page.prefer(color_scheme="dark")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(0, 0, 0)"
        await page.screenshot(tmp_path / "page.png")
        image = (tmp_path / "page.png").read_bytes()
        assert [int.from_bytes(image[at : at + 4]) for at in (16, 20)] == [400, 300]
