"""One vLLM and one proxy before it, mode by mode: a machine of two cores has room for one at a time."""

import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.live.bench import MODES, Bench, note, notes
from tests.live.servers import VLLM_HOME, free_port, install, proxy_server, running, vllm_server
from tests.live.traffic import Answer, Exchange, send_all
from tests.shapes import load_shapes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the live tests out unless `-m live` asks for them: they take minutes and gigabytes."""
    if "live" in config.getoption("markexpr"):
        return
    live = [item for item in items if item.get_closest_marker("live")]
    items[:] = [item for item in items if not item.get_closest_marker("live")]
    if live:
        config.hook.pytest_deselected(items=live)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a module's tests in the modes that it names, all tests of one mode together."""
    if "bench" in metafunc.fixturenames:
        metafunc.parametrize("bench", metafunc.module.BENCH_MODES, indirect=True, scope="session")


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    name: str = request.param
    mode = MODES[name]
    install(mode.version)
    upstream = vllm_server(
        mode.version, free_port(), tokenizer_mode=mode.tokenizer_mode, tools=mode.tools, reasoning=mode.reasoning
    )
    with running(upstream) as vllm, running(proxy_server(vllm.url, free_port(), profile=mode.profile)) as proxy:
        note(request.config, f"{name}: vLLM ready after {vllm.state['start_s']:.0f} s")
        models = send_all(proxy.url, [Exchange("models", "GET", "/v1/models")])["models"].json()
        yield Bench(name, vllm.url, proxy.url, models["data"][0]["max_model_len"])


@pytest.fixture(scope="session")
def shape_answers(bench: Bench, request: pytest.FixtureRequest) -> dict[str, Answer]:
    """Every recorded shape, sent through the proxy. The notes and a report compare with vLLM alone."""
    exchanges = [Exchange(s.name, s.method, s.path, s.body(bench.context), s.content_type) for s in load_shapes()]
    started = time.monotonic()
    answers = send_all(bench.proxy, exchanges)
    minutes = (time.monotonic() - started) / 60
    note(request.config, f"{bench.mode}: {len(exchanges)} shapes in {minutes:.1f} minutes")
    compare(bench, answers, request.config)
    return answers


def compare(bench: Bench, answers: dict[str, Answer], config: pytest.Config) -> None:
    """Write down which chat shapes get another status through the proxy than they got from vLLM alone."""
    pairs = {s.name: (s.direct[bench.mode], answers[s.name].status) for s in load_shapes() if s.is_chat}
    changed = {name: {"direct": direct, "through": through} for name, (direct, through) in pairs.items()}
    changed = {name: pair for name, pair in changed.items() if pair["direct"] != pair["through"]}
    report = VLLM_HOME / "reports" / f"shapes-{bench.mode}.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(changed, indent=1, ensure_ascii=False), encoding="utf-8")
    direct, through = (counted(statuses) for statuses in zip(*pairs.values(), strict=True))
    note(config, f"{bench.mode}: {len(pairs)} chat shapes, vLLM alone: {direct}; through the proxy: {through}")
    note(config, f"{bench.mode}: the {len(changed)} that differ: {report}")


def counted(statuses: tuple[int, ...]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(Counter(statuses).items()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for text in notes(config):
        terminalreporter.write_line(text)
