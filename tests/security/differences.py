"""
Where other servers take what this proxy refuses, or refuse what it takes, and why.

    patterns of cases' names (fnmatch) -> reason, by server

Each was seen with Debian 12's nginx 1.22.1, haproxy 2.6.12 and varnish 7.1.1 before the proxy, and with aiohttp 3.14.5
alone. None of them is a way to smuggle: whatever a server before the proxy takes it writes anew, see test_pairs.py.
"""

from fnmatch import fnmatchcase
from typing import Final

_LF: Final = "takes LF for a line end (RFC 9112, 2.2 allows that)"
_BLANKS: Final = "takes more blanks"
_FOLDS: Final = "unfolds lines (RFC 9112, 5.2 allows that)"
_VERSIONS: Final = "takes other versions, and says 1.1 or 1.0 itself"
_HOSTS: Final = "judges Host by rules of its own"
_TARGETS: Final = "judges targets by rules of its own"
_VALUES: Final = "passes on control bytes in values, which the proxy then refuses"
_OWN: Final = "keeps its client's connection where the proxy ends its own"
_MEANS: Final = "heeds a header that means nothing to the proxy"

DIFFERENCES: Final[dict[str, dict[str, str]]] = {
    "nginx": {
        "chunks: LF*": _LF,
        "chunks: an extension that ends in LF only": _LF,
        "line: LF*": _LF,
        "line: an LF in the value": _LF,
        "length: blanks around it": "refuses tabs before a length",
        "chunks: a blank behind the size": _BLANKS,
        "line: CR CR LF ends a header": _BLANKS,
        "start: a blank at the end": _BLANKS,
        "chunks: an extension with NUL": "drops extensions unread",
        "chunks:*trailer*": "drops trailers unread",
        "line: no colon": "drops headers whose names are none",
        "line:*in the name": "drops headers whose names are none",
        "line:*in the value": _VALUES,
        "start: version*": _VERSIONS,
        "Host with*": _HOSTS,
        "an empty Host": _HOSTS,
        "target:*": _TARGETS,
        "header: Expect twice": _MEANS,
        "chunks: two requests": _OWN,
        "pipeline: a length, then chunks, then a length": _OWN,
        "an upgrade*": _OWN,
    },
    "haproxy": {
        "CL.TE*": "takes the coding, drops the length and closes (RFC 9112, 6.3 allows that)",
        "pipeline: one, then one that is ambiguous": "takes the coding, drops the length and closes",
        "length: the same twice": "takes equal lengths for one (RFC 9112, 6.3 allows that)",
        "length: a list of the same": "takes equal lengths for one (RFC 9112, 6.3 allows that)",
        "coding: tabs around it": _BLANKS,
        "coding: a comma behind": "passes it on, and the proxy refuses it",
        "coding: a folded*": _FOLDS,
        "coding: behind a bare LF": _LF,
        "chunks: LF*": _LF,
        "chunks: an extension that ends in LF only": _LF,
        "chunks: a trailer with a bare LF": _LF,
        "line: LF*": _LF,
        "chunks: a blank behind the size": _BLANKS,
        "start: a tab*": _BLANKS,
        "line: only blanks": _FOLDS,
        "line: folded*": _FOLDS,
        "chunks: a folded trailer": _FOLDS,
        "chunks: an extension with NUL": "drops extensions unread",
        "chunks:*trailer*": "passes trailers on, and the proxy refuses or drops them",
        "line:*in the value": _VALUES,
        "line: a hundred headers": "takes 101 headers at the most",
        "start: version*": _VERSIONS,
        "two equal Hosts": _HOSTS,
        "target: absolute*": _TARGETS,
        "target: an asterisk": _TARGETS,
        "CONNECT*": _OWN,
        "chunks: two requests": _OWN,
        "pipeline: a length, then chunks, then a length": _OWN,
        "an upgrade*": _OWN,
    },
    "varnishd": {
        "coding: tabs around it": _BLANKS,
        "coding: chunked in two lines": "takes the first line",
        "coding: chunked, then identity, in two lines": "takes the first line",
        "coding: a folded*": _FOLDS,
        "chunks: a blank*": _BLANKS,
        "chunks: a tab before the size": _BLANKS,
        "chunks: LF*": _LF,
        "chunks: an extension*": "refuses extensions",
        "chunks:*trailer*": "refuses trailers",
        "line: LF*": _LF,
        "line: a blank line before the request": _BLANKS,
        "line: only blanks": _FOLDS,
        "line: folded*": _FOLDS,
        "line: a hundred headers": "takes 64 headers at the most",
        "start: a tab*": _BLANKS,
        "start: a blank at the beginning": _BLANKS,
        "start: no slash before the path": _TARGETS,
        "start: version*": _VERSIONS,
        "no Host": "writes a Host of its own",
        "target:*": _TARGETS,
        "CONNECT*": _OWN,
        "chunks: two requests": _OWN,
        "pipeline: a length, then chunks, then a length": _OWN,
        "an upgrade*": _OWN,
        "header: Connection names*": _MEANS,
        "header: a range": _MEANS,
        "header:*Expect*": _MEANS,
    },
    "aiohttp": {
        "coding: identity, chunked": "takes any coding before chunked",
        "coding: gzip, chunked": "takes any coding before chunked",
        "coding: a comma before": "takes any coding before chunked",
        "coding: nothing": "reads a request with an empty coding as one without a body",
        "chunks: a trailer, and a request behind it": "goes on after chunks",
        "chunks: an x-request-id in the trailer": "gives the last trailer to the next request",
        "chunks: two requests": "goes on after chunks",
        "pipeline: a length, then chunks, then a length": "goes on after chunks",
        "Host with*": "takes any Host",
        "CONNECT": "goes on after CONNECT",
        "target: a fragment": "drops a fragment",
        "target: absolute, with a user": "takes a user in a target",
        "an upgrade to h2c": "drops what comes behind an upgrade that it does not know",
        "an upgrade with chunks": "drops what comes behind an upgrade that it does not know",
        "an upgrade, and a request behind it": "drops what comes behind an upgrade that it does not know",
    },
}


def reason(server: str, case: str) -> str | None:
    """Return why that server differs in this case, if the table says."""
    return next((why for pattern, why in DIFFERENCES[server].items() if fnmatchcase(case, pattern)), None)
