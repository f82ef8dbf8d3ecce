"""
A headless Chromium for tests, driven by the Chrome DevTools Protocol over a websocket.

    async with start() as browser:
        page = await browser.open("http://127.0.0.1:9000/docs")     # a profile of its own, until the browser ends
        await page.wait_for("document.querySelector('h2')")
        assert (page.complaints, page.violations, page.origins) == ([], [], {"http://127.0.0.1:9000"})

Names other than 127.0.0.1 and localhost do not resolve in it, so that a page that asks for one is seen and nothing
leaves the machine. A page that has not done in WAIT_S what is waited for raises TimeoutError.

Protocol: https://chromedevtools.github.io/devtools-protocol/tot/
"""

import asyncio
import base64
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Seconds; generous, for machines with much else to do.
WAIT_S = 30

ARGUMENTS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)

#: name -> key code of Windows, and what it types
KEYS: Mapping[str, tuple[int, str]] = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    " ": (32, " "),
    "End": (35, ""),
    "Home": (36, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}
MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}


class NoChromium(Exception):
    """There is none, and none could be installed; the text says what to do."""


class PageError(Exception):
    """The page threw, or could not be reached."""


class Console(NamedTuple):
    """What a page, or the browser about it, has written: `level` is log, info, warning, error, ..."""

    level: str
    text: str


class Request(NamedTuple):
    """What a page has asked for. `type` is Document, Script, Fetch, EventSource, ..."""

    method: str
    url: str
    type: str


class Violation(NamedTuple):
    """What the Content-Security-Policy of a page has blocked."""

    directive: str
    kind: str
    url: str


class Node(NamedTuple):
    """What a screen reader is told of a thing on a page."""

    role: str
    name: str
    properties: Mapping[str, Any]


# --- where it comes from


def find() -> str | None:
    """Return the path of a Chromium, None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def find_or_install() -> str:
    """
    Return the path of a Chromium; where there is none, Debian's package is installed, which takes half a minute.

    Raises:
        NoChromium: it cannot be had.
    """
    if path := find():
        return path
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoChromium(f"None of {', '.join(NAMES)} is on the PATH. Install one (Debian: apt-get install chromium).")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            ["apt-get", "-y", *command], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
    if path := find():
        return path
    raise NoChromium(f"apt-get install chromium failed: {done.stderr.strip()[-400:]}")


# --- the browser


@asynccontextmanager
async def start() -> AsyncIterator["Browser"]:
    """
    Run a browser with an empty profile; it and its files are gone afterwards.

    Raises:
        NoChromium: there is none. `find_or_install()` gets one.
        TimeoutError: it did not start.
    """
    path = find()
    if path is None:
        raise NoChromium(f"None of {', '.join(NAMES)} is on the PATH.")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with (
        tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as said,  # and no pipe: its children hold that open when it has ended
    ):
        process = await asyncio.create_subprocess_exec(
            path,
            *ARGUMENTS,
            *sandbox,
            f"--user-data-dir={folder}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(WAIT_S):
                url = await _debugging_url(process, said)
            async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
                browser = Browser(socket)
                listening = asyncio.ensure_future(browser.listen())
                try:
                    yield browser
                finally:
                    listening.cancel()
                    await asyncio.wait({listening})
        finally:
            process.kill()
            await process.wait()


async def _debugging_url(process: asyncio.subprocess.Process, said: IO[bytes]) -> str:
    while True:
        has_ended = process.returncode is not None
        said.seek(0)
        text = said.read().decode(errors="replace")
        if found := re.search(r"^DevTools listening on (ws://\S+)\n", text, re.MULTILINE):
            return found[1]
        if has_ended:
            raise NoChromium(f"It ended at once: {text[-400:]}")
        await asyncio.sleep(0.05)


class Browser:
    """A running browser; `start()` makes it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def open(self, url: str = "about:blank", *, width: int = 1280, height: int = 900) -> "Page":
        """Open `url` in a new profile: no cookies, storage or cache of other pages. It returns when it has loaded."""
        context = await self.call("Target.createBrowserContext")
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context["browserContextId"])
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            await page.call(f"{domain}.enable")
        await page.resize(width, height)
        if url != "about:blank":
            await page.go(url)
        return page

    async def call(self, method: str, *, session: str = "", **parameters: Any) -> dict[str, Any]:
        """
        Call a method of the protocol.

        Raises:
            PageError: it was refused, or the browser is gone.
        """
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        async with asyncio.timeout(WAIT_S):
            found = await answer
        if "error" in found:
            raise PageError(f"{method}: {found['error']['message']}")
        return found["result"]

    async def listen(self) -> None:
        """Give answers to who waits for them, and events to their pages, until the browser is gone."""
        async for message in self._socket:
            data = message.json()
            if "id" in data:
                answer = self._answers.pop(data["id"])
                if not answer.done():
                    answer.set_result(data)
            elif page := self._pages.get(data.get("sessionId", "")):
                page.take(data["method"], data["params"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result({"error": {"message": "the browser is gone"}})


class Page:
    """
    A page, and what it has done so far.

    `requests` holds what it has asked for; data: and blob: addresses, which ask nobody, are left out.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = asyncio.Event()
        self._media = {"prefers-color-scheme": "light"}
        self.console: list[Console] = []
        self.requests: list[Request] = []
        self.violations: list[Violation] = []

    @property
    def complaints(self) -> list[Console]:
        """The errors among what was written: thrown and not caught, not loaded, blocked, `console.error`."""
        return [line for line in self.console if line.level == "error"]

    @property
    def origins(self) -> set[str]:
        """Whom it has asked: scheme, host and port."""
        return {"{0.scheme}://{0.netloc}".format(urlsplit(request.url)) for request in self.requests}

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol for this page."""
        return await self._browser.call(method, session=self._session, **parameters)

    async def go(self, url: str) -> None:
        """
        Go to `url`; return when it has loaded.

        Raises:
            PageError: it cannot be reached.
        """
        self._loaded.clear()
        answer = await self.call("Page.navigate", url=url)
        if error := answer.get("errorText"):
            raise PageError(f"{url}: {error}")
        async with asyncio.timeout(WAIT_S):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """
        Return the value of a JavaScript expression as plain data; a promise is awaited.

        Raises:
            PageError: it threw.
        """
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if details := answer.get("exceptionDetails"):
            raise PageError(f"{details.get('exception', {}).get('description') or details['text']}, in {expression}")
        return answer["result"].get("value")

    async def wait_for(self, expression: str) -> Any:
        """Return the value of a JavaScript expression as soon as it is true there."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    if value := await self.evaluate(f"(value => value instanceof Node || value)({expression})"):
                        return value
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise TimeoutError(f"not so in {WAIT_S} s: {expression}; console: {self.console}") from None

    async def press(self, key: str, *modifiers: str) -> None:
        """Press a key of KEYS, or one that types a character, with Alt, Control, Meta or Shift held down."""
        code, text = KEYS.get(key, (ord(key[0].upper()), key))
        event = {
            "key": key,
            "code": {" ": "Space"}.get(key, key if key in KEYS else f"Key{key.upper()}"),
            "windowsVirtualKeyCode": code,
            "modifiers": sum(MODIFIERS[name] for name in modifiers),
        }
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    async def type(self, text: str) -> None:
        """Put a text where the cursor is, as an input method does: without keys."""
        await self.call("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """
        Click in the middle of the first element that a CSS selector finds, with the mouse.

        Raises:
            PageError: there is none.
        """
        find = f"document.querySelector({selector!r})"
        x, y = await self.evaluate(
            f"(element => {{ element.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            f" const box = element.getBoundingClientRect();"
            f" return [box.x + box.width / 2, box.y + box.height / 2]; }})({find})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def resize(self, width: int, height: int) -> None:
        """Show the page in so many CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def prefer(self, **media: str) -> None:
        """Set what the user prefers: `color_scheme="dark"`, `reduced_motion="reduce"`, `contrast="more"`."""
        self._media |= {f"prefers-{name.replace('_', '-')}": value for name, value in media.items()}
        features = [{"name": name, "value": value} for name, value in self._media.items()]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, path: Path) -> None:
        """Write what is in view to `path`, a PNG."""
        answer = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))

    async def accessibility(self) -> list[Node]:
        """Return the accessibility tree in the order in which it is read, without what it ignores."""
        answer = await self.call("Accessibility.getFullAXTree")
        return [
            Node(
                node["role"]["value"],
                node.get("name", {}).get("value", ""),
                {item["name"]: item["value"].get("value") for item in node.get("properties", ())},
            )
            for node in answer["nodes"]
            if not node["ignored"]
        ]

    def take(self, method: str, event: dict[str, Any]) -> None:
        """Note an event of the protocol."""
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Runtime.consoleAPICalled":
                words = (item.get("value", item.get("description", "")) for item in event["args"])
                self.console.append(Console(event["type"], " ".join(map(str, words))))
            case "Runtime.exceptionThrown":
                details = event["exceptionDetails"]
                text = details.get("exception", {}).get("description") or details["text"]
                self.console.append(Console("error", text))
            case "Log.entryAdded":
                entry = event["entry"]
                self.console.append(Console(entry["level"], f"{entry['text']} {entry.get('url', '')}".strip()))
            case "Network.requestWillBeSent":
                asked = event["request"]
                if not asked["url"].startswith(("data:", "blob:", "about:")):
                    self.requests.append(Request(asked["method"], asked["url"], event.get("type", "")))
            case "Audits.issueAdded":
                if details := event["issue"]["details"].get("contentSecurityPolicyIssueDetails"):
                    kind, url = details["contentSecurityPolicyViolationType"], details.get("blockedURL", "")
                    self.violations.append(Violation(details["violatedDirective"], kind, url))
