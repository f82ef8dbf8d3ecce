"""
Wait, before vLLM gets SIGTERM, until nobody needs it any more: a preStop hook of its container.

    wait_idle.py --proxy 9000                    the proxy in this pod has served the last of its clients
    wait_idle.py --after 30 --vllm 8000          proxies elsewhere have had 30 s to notice, and nothing runs here

It ends with 0 in any case, at the latest after `--limit` seconds: a hook that fails stops nothing, and the kubelet
counts its time towards terminationGracePeriodSeconds. Only the standard library of Python 3.9 is used, since the image
is vLLM's.
"""

import argparse
import http.client
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

LOOK_EVERY_S = 0.5
#: A look that fails may be a busy server; so many in a row are none.
MOST_FAILURES = 6
#: How long the proxy has to say that it drains. Else this is no end of the pod, but vLLM alone that is started anew.
SAYS_SO_WITHIN_S = 10.0
#: States of /proc/net/tcp. In the first two somebody is served, in the third somebody may yet be.
ESTABLISHED, CLOSE_WAIT, LISTEN = "01", "08", "0A"


def main() -> None:
    options = parsed(sys.argv[1:])
    until = time.monotonic() + options.limit
    if options.proxy and not drains(options.proxy):
        print("wait_idle: the proxy does not drain, so the pod stays: nothing to wait for")
        return
    time.sleep(min(options.after, options.limit))
    is_idle = (lambda: is_unused(options.proxy)) if options.proxy else Requests(options.vllm).are_none
    while not (is_idle() and again(is_idle)):
        if time.monotonic() > until:
            print("wait_idle: still in use at the limit")
            return
        time.sleep(LOOK_EVERY_S)
    print("wait_idle: idle")


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--proxy", type=int, metavar="PORT", help="the port of the proxy in the same pod")
    which.add_argument("--vllm", type=int, metavar="PORT", help="the port of vLLM in this container")
    parser.add_argument("--after", type=float, default=0.0, metavar="S", help="how long to wait before the first look")
    parser.add_argument("--limit", type=float, default=320.0, metavar="S", help="how long to wait at most")
    return parser.parse_args(arguments)


def again(is_idle):
    """Whether a second look says the same: between two attempts of one request there may be nothing to see."""
    time.sleep(LOOK_EVERY_S)
    return is_idle()


def drains(port):
    """Whether the proxy says that it drains, or accepts nothing any more."""
    until = time.monotonic() + SAYS_SO_WITHIN_S
    while time.monotonic() < until:
        if LISTEN not in states(port) or says_so(port):
            return True
        time.sleep(LOOK_EVERY_S)
    return False


def says_so(port):
    return any(b"draining" in answer(f"{scheme}://127.0.0.1:{port}/readyz") for scheme in ("http", "https"))


def is_unused(port):
    """Whether no socket of this pod listens on the port or has a client on it; all containers share one network."""
    return not states(port) & {ESTABLISHED, CLOSE_WAIT, LISTEN}


def states(port):
    """The states of the sockets of this pod on a port."""
    rows = [row for name in ("tcp", "tcp6") for row in table(name)]
    return {row[3] for row in rows if row[1].endswith(f":{port:04X}")}


def table(name):
    path = Path("/proc/net") / name
    return [line.split() for line in path.read_text().splitlines()[1:]] if path.exists() else []


class Requests:
    """What vLLM says that it does. One that says nothing any more is idle."""

    def __init__(self, port):
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._failures = 0

    def are_none(self):
        text = answer(self._url)
        self._failures = 0 if text else self._failures + 1
        if not text:
            return self._failures >= MOST_FAILURES
        return sum(map(number, filter(counts_requests, text.decode().splitlines()))) == 0


def counts_requests(line):
    return line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting"))


def number(line):
    return float(line.rpartition(" ")[2])


def answer(url):
    """Return the body of an answer, of whatever status; b"" without one."""
    context = ssl.create_default_context()
    context.check_hostname = False  # nothing secret is sent, and loopback is in no certificate
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as response:  # noqa: S310 - loopback
            return response.read()
    except urllib.error.HTTPError as exc:
        return exc.read()
    except (OSError, http.client.HTTPException):
        return b""


if __name__ == "__main__":
    main()
