"""Configurations of deploy/ on this machine: the same files, with their paths, ports and addresses put in."""

import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import trustme

from tests.chaos.model import Asked
from tests.chaos.outcome import Kind, Outcome, exactly
from tests.chaos.stage import Proxy
from tests.live.servers import ROOT, Server, free_port

DEPLOY = ROOT / "deploy"
#: Where the files of deploy/ expect certificates and keys.
ETC = "/etc/devstral-proxy/"
LOCALHOST = "127.0.0.1"


class Place:
    """A folder with what /etc/devstral-proxy has: a certificate, clients' keys, the key for model servers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        pair = authority.issue_cert(LOCALHOST, "localhost")
        pair.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
        pair.private_key_pem.write_to_path(str(folder / "tls.key"))
        pair.private_key_and_cert_chain_pem.write_to_path(str(folder / "pair.pem"))
        (folder / "upstream.key").write_text("a-key-for-the-model-servers\n")
        self.key = self._made_key()
        self.trust = ssl.create_default_context(cafile=folder / "ca.crt")

    def _made_key(self) -> str:
        command = [sys.executable, "-m", "proxy", "keys", "add", "alice", "--keys-file", str(self.folder / "keys.json")]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=bare()).stdout.strip()

    def settle(self, source: Path, port: int, urls: Mapping[str, str]) -> Path:
        """Write `source` with this folder's files, this port, and other URLs of backends; return where."""
        text = source.read_text(encoding="utf-8").replace(ETC, f"{self.folder}/")
        text = re.sub(r"^host = .*$", f'host = "{LOCALHOST}"', text, count=1, flags=re.MULTILINE)
        text = re.sub(r"^port = .*$", f"port = {port}", text, count=1, flags=re.MULTILINE)
        for before, after in urls.items():
            assert f'url = "{before}"' in text, before
            # a server on this machine has no certificate
            text = re.sub(rf'url = "{re.escape(before)}"\n(ca_file = .*\n)?', f'url = "{after}"\n', text)
        written = self.folder / f"{source.parent.name}-{source.name}"
        written.write_text(text, encoding="utf-8")
        return written

    def proxy(self, source: Path, urls: Mapping[str, str], **environment: str) -> "TlsProxy":
        """Return a proxy with this configuration, to be started."""
        port = free_port()
        config = self.settle(source, port, urls)
        server = Server(
            name=config.stem,
            command=[sys.executable, "-m", "proxy", "serve", "--config", str(config)],
            environment={"PROXY_PROFILE": "vllm-mistral-tokenizer", **environment},
            url=f"https://{LOCALHOST}:{port}",
            log=self.folder / f"{config.stem}.log",
            start_s=30,
        )
        return TlsProxy(server, self.trust)

    def session(self) -> aiohttp.ClientSession:
        """Return a client that trusts this place, with its key; each request is a connection of its own."""
        connector = aiohttp.TCPConnector(ssl=self.trust, force_close=True)
        return aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {self.key}"})


class TlsProxy(Proxy):
    """A proxy that speaks TLS, and of whose health only /livez says something without a key."""

    def __init__(self, server: Server, trust: ssl.SSLContext) -> None:
        super().__init__(server)
        self._trust = trust

    def is_healthy(self) -> bool:
        """Return whether it is ready."""
        return self.status("/readyz") == 200

    def status(self, path: str) -> int | None:
        """Return the status of the answer, None where nobody listens."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5, context=self._trust) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            return exc.code
        except (OSError, urllib.error.URLError):
            return None


async def ask(session: aiohttp.ClientSession, url: str, number: int, words: int, pause_s: float = 0.0) -> Outcome:
    """Ask one of tests/chaos/model.py for a stream, through whatever listens at `url`; return what became of it."""
    asked = Asked(number, words, pause_s)
    body = {"model": "devstral", "messages": [{"role": "user", "content": asked.prompt}], "stream": True}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            received = await response.read()
            if response.status != 200:
                return Outcome(Kind.ERROR, f"{response.status} {received[:200]!r}")
    except (aiohttp.ClientError, OSError) as exc:
        return Outcome(Kind.CUT, repr(exc))
    return exactly(asked.text).stream(received, is_ended=True)


def bare() -> dict[str, str]:
    """Return an environment without settings."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH", "LANG")}
