"""
Debian's servers as the one before the proxy: on 127.0.0.1, with a few lines of configuration, ended with the test.

Each shares its connections to the proxy among its clients, so that what one leaves there meets the next.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

#: Generous: varnish compiles its configuration.
_START_S = 20

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{}}
http {{
    log_format believed $request_method;
    access_log {folder}/believed believed;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_header_timeout 200ms;
    client_body_timeout 200ms;
    lingering_timeout 200ms;
    upstream proxy {{
        server 127.0.0.1:{proxy};
        keepalive 1;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://proxy;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
        }}
    }}
}}
"""

_HAPROXY = """
global
    log stdout format raw local0
defaults
    mode http
    log global
    log-format %HM
    timeout connect 5s
    timeout client 200ms
    timeout http-request 200ms
    timeout server 10s
    http-reuse always
listen proxy
    bind 127.0.0.1:{port}
    server proxy 127.0.0.1:{proxy}
"""

_VARNISH = """
vcl 4.1;
backend proxy {{ .host = "127.0.0.1"; .port = "{proxy}"; }}
sub vcl_recv {{ return (pass); }}
"""


class Front(NamedTuple):
    """A running one: the port that it listens on, and where it writes down the method of each request, if it does."""

    port: int
    log: Path | None

    def believed(self) -> int:
        """How many chat requests it thinks there were; only what sends a body here is one."""
        assert self.log is not None
        return self.log.read_text(encoding="latin-1").split().count("POST")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.asynccontextmanager
async def running(name: str, program: Path, proxy_port: int, folder: Path) -> AsyncIterator[Front]:
    """`async with running("nginx", path, proxy.port, tmp_path) as front`: it has accepted a connection."""
    port = _free_port()
    template = {"nginx": _NGINX, "haproxy": _HAPROXY, "varnishd": _VARNISH}[name]
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / f"{name}.conf"
    config.write_text(template.format(folder=folder, proxy=proxy_port, port=port, user=user))
    arguments = {
        "nginx": ["-p", str(folder), "-e", f"{folder}/error.log", "-c", str(config)],
        "haproxy": ["-db", "-f", str(config)],
        "varnishd": [
            *("-F", "-j", "none", "-a", f"127.0.0.1:{port}", "-f", str(config), "-n", str(folder / "varnish")),
            *("-s", "malloc,16m", "-p", "timeout_idle=0.2"),
        ],
    }[name]
    believed = folder / "believed"
    output = believed if name == "haproxy" else folder / "output"
    with output.open("wb") as out, (folder / "errors").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(program, *arguments, stdout=out, stderr=errors)
        try:
            await _accepting(port, process, folder)
            yield Front(port, None if name == "varnishd" else believed)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _accepting(port: int, process: asyncio.subprocess.Process, folder: Path) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            assert process.returncode is None, (folder / "errors").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
