"""/docs and /redoc in a browser: what they show, what one can do there, whom they ask, what their policy blocks."""

import asyncio
import hashlib
import json

from proxy.edge.docs import assets
from proxy.edge.openapi import document
from proxy.edge.routes import LIVE, READY

KEY = "sk-a-key-of-this-test"
OPERATIONS = {(method.upper(), path) for path, methods in document(LIVE, READY)["paths"].items() for method in methods}
CHAT = "#operations-chat-createChatCompletion"


def is_clean(page, url):
    """Whether a page has done nothing that a strict reader of its console and its traffic would object to."""
    assert page.complaints == []
    assert page.violations == []
    assert page.origins == {url}
    return True


# --- /docs


async def opened_chat(browser, url, example):
    """Open /docs, and in it a chat request with one of the examples, ready to be sent."""
    page = await browser.open(f"{url}/docs")
    await page.wait_for(f"document.querySelector('{CHAT}')")
    await page.click(f"{CHAT} .opblock-summary-control")
    await page.wait_for(f"document.querySelector('{CHAT} .try-out__btn')")
    await page.click(f"{CHAT} .try-out__btn")
    await page.wait_for(f"document.querySelector('{CHAT} .execute')")
    # React looks at what the element's own setter is given, and listens for the event.
    await page.evaluate(
        "(list => {"
        f" Object.getOwnPropertyDescriptor(HTMLSelectElement.prototype, 'value').set.call(list, '{example}');"
        " list.dispatchEvent(new Event('change', {bubbles: true}));"
        f"}})(document.querySelector('{CHAT} .opblock-section-request-body .examples-select-element'))"
    )
    return page


async def sent(page):
    """Send the request; return the status, the body and the first snippet as the page shows them."""
    await page.click(f"{CHAT} .execute")
    live = f"{CHAT} .live-responses-table"
    await page.wait_for(f"document.querySelector('{live} tbody .response-col_status')")
    status = await page.evaluate(f"document.querySelector('{live} tbody .response-col_status').innerText")
    body = await page.evaluate(f"document.querySelector('{live} .highlight-code code').innerText")
    snippet = await page.evaluate(f"document.querySelector('{CHAT} .curl-command code').innerText")
    return int(status.split()[0]), json.loads(body), snippet


async def test_docs_shows_every_operation(browser, start_proxy, demo, tmp_path):
    url = (await start_proxy(demo.url)).url
    page = await browser.open()
    await page.prefer(color_scheme="dark")
    await page.go(f"{url}/docs")
    await page.wait_for(f"document.querySelectorAll('.opblock').length >= {len(OPERATIONS)}")
    shown = await page.evaluate(
        "[...document.querySelectorAll('.opblock')].map(block =>"
        " ['.opblock-summary-method', '.opblock-summary-path'].map(part =>"
        " block.querySelector(part).textContent.replaceAll('\\u200b', '')))"
    )

    assert {(method, path) for method, path in shown} == OPERATIONS
    assert await page.evaluate("document.documentElement.classList.contains('dark-mode')")
    await page.screenshot(tmp_path / "docs-dark.png")
    await page.prefer(color_scheme="light")
    await page.wait_for("!document.documentElement.classList.contains('dark-mode')")
    await page.screenshot(tmp_path / "docs.png")
    assert is_clean(page, url)


async def test_a_request_that_is_tried_out_gets_a_tool_call_and_is_shown_as_a_command(
    browser, start_proxy, demo, tmp_path
):
    url = (await start_proxy(demo.url)).url
    page = await opened_chat(browser, url, "tool")
    await page.wait_for(f"document.querySelector('{CHAT} textarea').value.includes('get_weather')")
    status, body, snippet = await sent(page)

    assert status == 200
    [call] = body["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    tabs = await page.evaluate(f"[...document.querySelectorAll('{CHAT} .curl-command .btn')].map(tab => tab.innerText)")
    assert tabs == ["cURL (bash)", "cURL (PowerShell)", "cURL (CMD)"]
    assert snippet.startswith("curl -X 'POST'")
    assert f"{url}/v1/chat/completions" in snippet
    await page.screenshot(tmp_path / "docs-tried.png")
    assert is_clean(page, url)


async def test_a_key_that_is_typed_in_is_sent_and_gone_with_the_page(browser, start_proxy, demo):
    url = (await start_proxy(demo.url, api_keys=KEY)).url
    page = await opened_chat(browser, url, "plain")
    await page.click(".auth-wrapper .authorize")
    # the first is the bearer's, the other one is for Anthropic's routes
    await page.wait_for("document.querySelectorAll('.modal-ux input').length === 2")
    await page.click(".modal-ux input")
    await page.type(KEY)
    await page.click(".modal-ux .authorize")
    await page.wait_for("document.querySelectorAll('.modal-ux input').length === 1")
    await page.click(".modal-ux .btn-done")
    await page.wait_for("!document.querySelector('.modal-ux')")
    status, body, snippet = await sent(page)

    assert (status, body["object"]) == (200, "chat.completion")
    assert f"'Authorization: Bearer {KEY}'" in snippet
    assert is_clean(page, url)
    assert await page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    await page.go(f"{url}/docs")
    await page.wait_for("document.querySelector('.auth-wrapper .authorize.unlocked')")


# --- /redoc


async def test_redoc_shows_every_operation_and_the_commands(browser, start_proxy, demo, tmp_path):
    url = (await start_proxy(demo.url)).url
    page = await browser.open(f"{url}/redoc")
    await page.wait_for("document.querySelector('[id=\"operation/index\"]')")
    shown = await page.evaluate(
        "[...document.querySelectorAll('[data-section-id*=\"/operation/\"]')].map(section => section.innerText)"
    )
    samples = await page.evaluate("[...document.querySelectorAll('[role=tab]')].map(tab => tab.innerText)")

    for method, path in OPERATIONS:
        assert any(method in text.split() and path in text.split() for text in shown), path
    assert "curl: With a tool" in samples
    # what its makers' server would have been asked for
    assert await page.evaluate("[...document.images].filter(image => image.src || image.width).length") == 0
    await page.screenshot(tmp_path / "redoc.png")
    assert is_clean(page, url)


async def test_redocs_search_finds_an_operation(browser, start_proxy, demo, tmp_path):
    url = (await start_proxy(demo.url)).url
    page = await browser.open(f"{url}/redoc")
    await page.wait_for("document.querySelector('[role=search] input')")
    await page.click("[role=search] input")
    for letter in "models":
        await page.press(letter)
    await page.wait_for("document.querySelector('[role=search]').innerText.includes('The models')")

    await page.screenshot(tmp_path / "redoc-search.png")
    assert is_clean(page, url)


# --- both


async def test_without_the_package_the_pages_are_plain_and_say_so(browser, start_proxy, demo, monkeypatch):
    monkeypatch.setattr(assets, "PACKAGE", "drf-spectacular-sidecar-that-nobody-has")
    url = (await start_proxy(demo.url)).url
    for path in ("/docs", "/redoc"):
        page = await browser.open(url + path)

        assert ("link", "/openapi.json") in [node[:2] for node in await page.accessibility()]
        assert len(page.requests) == 1
        assert is_clean(page, url)


async def test_a_file_that_is_not_what_the_package_lists_is_not_run(browser, start_proxy, demo, tmp_path, monkeypatch):
    """The address and the digest in the page are the package's; what stands on disk is something else."""
    found = assets.find_assets()
    changed = tmp_path / "swagger-ui-bundle.js"
    whole = await asyncio.to_thread(found[changed.name].path.read_bytes)
    await asyncio.to_thread(changed.write_bytes, whole + b"\ndocument.title = 'changed';")
    assert hashlib.sha256(whole).digest() == found[changed.name].sha256
    monkeypatch.setattr(
        "proxy.edge.docs.pages.find_assets", lambda: {**found, changed.name: found[changed.name]._replace(path=changed)}
    )
    url = (await start_proxy(demo.url)).url
    page = await browser.open(f"{url}/docs")
    await page.wait_for("document.readyState == 'complete'")

    assert any("integrity" in line.text for line in page.complaints)
    assert (await page.evaluate("document.title")).startswith("Devstral Proxy")
    assert await page.evaluate("typeof SwaggerUIBundle") == "undefined"
