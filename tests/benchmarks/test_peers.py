"""The other proxies: what is said when one cannot be started."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks import peers, programs
from benchmarks.peers import PEERS
from benchmarks.programs import BenchmarkError

ROOT = Path(peers.__file__).parent.parent

#: Answers nothing but 404, as a proxy does that has no upstream yet.
LISTENS_ONLY = """
import http.server, sys
handler = type("Handler", (http.server.BaseHTTPRequestHandler,), {"do_POST": lambda self: self.send_error(404)})
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is installed, and nothing is written beside the sources."""
    for module in (peers, programs):
        monkeypatch.setattr(module, "BUILD", tmp_path)
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(programs, "BODIES", tmp_path)
    monkeypatch.setattr(peers, "PORTKEY", tmp_path / "portkey")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "short.json").write_text("{}")
    return tmp_path


def start(script: str, **options: object) -> programs.Program:
    port = programs.free_port()
    return programs.start("it", [sys.executable, "-c", script, str(port)], port, 0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_that_is_not_there_says_what_is_missing(peer: peers.Peer) -> None:
    mock = programs.Program("mock", 1, None, Path())  # type: ignore[arg-type]

    for ask in (lambda: peer.start(mock, 0), peer.version):
        with pytest.raises(BenchmarkError, match=r"not installed|^no \w+ on the PATH"):
            ask()


def test_a_peer_that_could_not_be_installed_says_why(folder: Path) -> None:
    (folder / "install-smg.log").write_text(
        "Collecting smg\nERROR: No matching distribution found for smg==1.13.0\nbye\n"
    )

    with pytest.raises(BenchmarkError, match=r"not installed\nERROR: No matching distribution"):
        peers.start_smg(programs.Program("mock", 1, None, Path()), 0)  # type: ignore[arg-type]


def test_a_program_that_ends_at_once_leaves_its_last_words() -> None:
    with pytest.raises(BenchmarkError, match="no licence found"):
        start("raise SystemExit('no licence found')")


def test_a_program_that_cannot_be_run_is_named() -> None:
    with pytest.raises(BenchmarkError, match="No such file or directory: nowhere"):
        programs.start("it", ["nowhere"], 1, 0)


def test_a_program_that_listens_and_reaches_no_upstream_is_not_up() -> None:
    start(LISTENS_ONLY).stop()

    with pytest.raises(BenchmarkError, match="did not start"):
        start(LISTENS_ONLY, is_up=programs.answers, timeout_s=0.5)


ENDED_THREAD = """
import http.server, sys, threading, time
def work():
    while time.thread_time() < 0.2:
        pass
thread = threading.Thread(target=work)
thread.start()
thread.join()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()
"""


def test_the_processor_time_of_threads_that_have_ended_is_counted() -> None:
    program = start(ENDED_THREAD)
    used_us = program.cpu_us()
    program.stop()

    assert used_us >= 200_000


def test_a_program_that_has_ended_has_no_processor_time() -> None:
    program = start(LISTENS_ONLY)
    program.stop()

    with pytest.raises(BenchmarkError, match="it has ended"):
        program.cpu_us()


@pytest.mark.parametrize("name", ["vllm-router", "smg", "litellm"])
def test_a_peer_is_installed_from_hashes_alone(name: str) -> None:
    lock = (ROOT / "deploy" / f"requirements-peers-{name}.txt").read_text()
    packages = re.findall(r"^[^ #\n].*(?:\n +--hash.*)*", lock, re.MULTILINE)

    assert [package for package in packages if "--hash=sha256:" not in package] == []
    assert any(package.startswith(f"{name}==") for package in packages)


def test_the_compromised_release_of_litellm_cannot_come_back_with_an_upgrade() -> None:
    assert "!=1.107.0" in re.findall("PEER_litellm := (.*)", (ROOT / "Makefile").read_text())[0]
