"""Alerts, the dashboard and Prometheus' configuration: judged by Prometheus' own tools and by a running Prometheus."""

import asyncio
import contextlib
import json
import re
import shutil
from pathlib import Path

import aiohttp
import pytest
import yaml

from proxy.config import Tier
from tests.deploy.engine import ROOT, run
from tests.fakes import ScriptedUpstream, event, head, text_chunk, whole

DEPLOY = ROOT / "deploy"
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
TESTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions(panel):
    """Return a panel's expressions as Grafana would send them."""
    values = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}
    for target in panel["targets"]:
        text = target["expr"]
        for name, value in values.items():
            text = text.replace(name, value)
        assert "$" not in text
        yield text


KEY = "operators-key"
ALL = [(panel["title"], text) for panel in PANELS for text in expressions(panel)]
ALL += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES]


# --- what Prometheus says of them


def test_the_rules_are_what_prometheus_takes(promtool):
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", str(DEPLOY / "prometheus" / "alerts.yml"))


def test_the_rules_fire_when_they_should_and_not_else(promtool):
    run(promtool, "test", "rules", "alerts_test.yml", cwd=str(DEPLOY / "prometheus"))


def test_the_configuration_is_what_prometheus_takes(promtool):
    run(promtool, "check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_seen_to_fire_and_not_to(alert):
    expected = [
        bool(each["exp_alerts"])
        for test in TESTS
        for each in test.get("alert_rule_test", ())
        if each["alertname"] == alert
    ]
    assert {True, False} == set(expected)


# --- what is written in them


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_urgent_it_is_and_what_to_do(alert):
    rule = ALERTS[alert]
    assert alert.startswith("DevstralProxy")
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert len(rule["annotations"]["runbook"]) > 100


@pytest.mark.parametrize("alert", ALERTS)
def test_what_a_runbook_names_is_a_name_of_the_program(alert):
    """Settings, fields and lines of the log, metrics, other alerts; `vllm:` and `container_` are others' metrics."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "proxy").rglob("*.py"))
    text = re.sub(r"\b(vllm:|container_)\w+", "", ALERTS[alert]["annotations"]["runbook"])
    # a setting of vLLM's
    words = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", text)) - {"max_num_seqs"}
    assert {word for word in words if word.removeprefix("devstral_proxy_") not in sources} == set()
    assert set(re.findall(r"DevstralProxy\w+", text)) <= set(ALERTS)


def test_the_expressions_can_be_parsed(tool):
    code = "import json, promql_parser, sys; [promql_parser.parse(each) for each in json.load(sys.stdin)]"
    run(tool("python"), "-c", code, input=json.dumps([text for _, text in ALL]))


# --- against the metrics that a proxy tells


@pytest.fixture
async def told(start_proxy):
    """Each metric of a proxy that has answered a request, with the labels that it has."""
    async with ScriptedUpstream([whole({"object": "list", "data": []})]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.get(f"{proxy.url}/v1/models") as answer:
            await answer.read()
        async with proxy.session.get(f"{proxy.url}/metrics") as answer:
            text = await answer.text()
    labels = {}
    for name, inside in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', inside))
    return labels


async def test_every_expression_is_about_metrics_that_there_are(told):
    for title, text in ALL:
        names = set(re.findall(r"\bdevstral_proxy(?:_[a-z_]+|:[a-z_0-9:]+)", text))
        assert names or re.search(r"\bup\b", text), title
        assert names <= set(told) | RECORDED, title


async def test_every_selector_is_about_labels_that_its_metric_has(told):
    for title, text in ALL:
        for name, inside in re.findall(r"\b(devstral_proxy_[a-z_]+)\{(.*?)\}", text):
            labels = set(re.findall(r"(\w+)\s*(?:=|!)", inside))
            assert labels <= told[name] | {"job", "instance"}, title


# --- the dashboard


def test_no_two_panels_are_one_or_stand_in_one_place():
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = set()
    for panel in everything:
        where = panel["gridPos"]
        squares = {
            (x, y)
            for x in range(where["x"], where["x"] + where["w"])
            for y in range(where["y"], where["y"] + where["h"])
        }
        assert where["x"] + where["w"] <= 24
        assert not squares & places, panel["title"]
        places |= squares


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows(panel):
    assert panel["description"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_variables_are_defined():
    defined = {each["name"] for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used <= defined
    assert DASHBOARD["uid"] == "devstral-proxy"


# --- a real Prometheus, a real proxy


@contextlib.asynccontextmanager
async def running_prometheus(program, folder: Path, port: int, target: str):
    """Prometheus with deploy/prometheus, but for where the proxy is, how often it is asked, and with what key."""
    for name in ("alerts.yml", "prometheus.yml"):
        shutil.copy(DEPLOY / "prometheus" / name, folder)
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "devstral-proxy"]
    del job["dns_sd_configs"]
    (folder / "key").write_text(f"{KEY}\n")
    config["scrape_configs"] = [
        job | {"static_configs": [{"targets": [target]}], "authorization": {"credentials_file": "key"}}
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)


async def _asked(session, url, **parameters):
    with contextlib.suppress(aiohttp.ClientConnectionError):
        async with session.get(url, params=parameters) as answer:
            if answer.status != 503:  # it starts
                return answer.status, await answer.json()
    return None


async def soon(condition):
    """Prometheus has no event to wait for: it is asked again, for as long as a busy machine may need."""
    async with asyncio.timeout(90):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_prometheus_scrapes_a_proxy_with_a_key_and_answers_the_dashboard(
    start_proxy, prometheus, tmp_path, unused_port
):
    stream = head(content_type="text/event-stream") + event(text_chunk("Hi", finish="stop")) + event(b"[DONE]")
    async with ScriptedUpstream([stream]) as upstream:
        tiers = {"default": Tier(operator=True)}
        proxy = await start_proxy(upstream.url, api_keys=KEY, tiers=tiers)
        authorized = {"Authorization": f"Bearer {KEY}"}
        async with running_prometheus(prometheus, tmp_path, unused_port, f"127.0.0.1:{proxy.port}") as url:

            async def up():
                asked = await _asked(proxy.session, f"{url}/api/v1/query", query='up{job="devstral-proxy"} == 1')
                return asked is not None and bool(asked[1]["data"]["result"])

            await soon(up)

            async def counted():
                body = {"model": "devstral", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
                chat = f"{proxy.url}/v1/chat/completions"
                async with proxy.session.post(chat, json=body, headers=authorized) as answer:
                    assert answer.status == 200
                    await answer.read()
                # a histogram that has labels is told from its first request on, so a rate takes some more
                query = 'rate(devstral_proxy_request_duration_seconds_count{route="/v1/chat/completions"}[1m]) > 0'
                _, told = await _asked(proxy.session, f"{url}/api/v1/query", query=query)
                return bool(told["data"]["result"])

            await soon(counted)
            empty = []
            for title, text in ALL:
                status, told = await _asked(proxy.session, f"{url}/api/v1/query", query=text)
                assert (status, told["status"]) == (200, "success"), (title, told)
                if not told["data"]["result"]:
                    empty.append(title)
            _, rules = await _asked(proxy.session, f"{url}/api/v1/rules")

    loaded = [rule for group in rules["data"]["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in loaded} == set(ALERTS) | RECORDED
    assert {rule["health"] for rule in loaded} <= {"ok", "unknown"}
    assert not [rule["name"] for rule in loaded if rule["type"] == "alerting" and rule["state"] == "firing"]
    # nothing has gone wrong there, so these show nothing
    quiet = {
        *("Errors by type", "Sent again, continued elsewhere", "Store", "Rules that changed something"),
        *("Errors of model servers", "Malformed calls"),
    }
    assert {title for title in empty if title not in ALERTS} <= quiet


# --- deploy/README.md


def test_the_readme_lists_the_alerts():
    lines = re.findall(r"^\| `(DevstralProxy\w+)` \| (\w+) \|", README, re.MULTILINE)
    assert lines == [(name, rule["labels"]["severity"]) for name, rule in ALERTS.items()]
    assert f"has {len(ALERTS)} alerts" in README
