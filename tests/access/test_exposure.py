"""Nobody is served openly where others can reach the proxy, unless the settings say so."""

import os
import subprocess
import sys

import pytest

from proxy.access.exposure import check_exposure
from proxy.config import Config, ConfigError, Issuer
from proxy.process.reload import Settings, Source
from proxy.process.serve import new_metrics

LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "localhost"]
ELSEWHERE = ["0.0.0.0", "::", "", "192.0.2.7", "2001:db8::1", "fe80::1%eth0", "proxy.example", "localhost.example"]
METHODS = {
    "keys": {"api_keys": "sk-0123456789"},
    "an issuer": {"issuers": (Issuer(url="https://id.example", audience=("proxy",)),)},
    "certificates": {"tls_client_ca_file": "ca.pem", "tls_cert_file": "proxy.pem"},
}
SECONDS = 20


@pytest.mark.parametrize("host", LOOPBACK)
def test_on_loopback_nothing_is_demanded(host):
    check_exposure(Config(host=host), (host,))


@pytest.mark.parametrize("host", ELSEWHERE)
def test_anywhere_else_an_open_proxy_is_refused(host):
    with pytest.raises(ConfigError, match=r"PROXY_AUTH=open"):
        check_exposure(Config(host=host), (host,))


def test_one_address_that_others_reach_is_enough():
    with pytest.raises(ConfigError, match=r"192\.0\.2\.7"):
        check_exposure(Config(), ("127.0.0.1", "192.0.2.7"))


@pytest.mark.parametrize("host", ELSEWHERE)
def test_in_words_it_is_allowed(host):
    check_exposure(Config(host=host, auth="open"), (host,))


@pytest.mark.parametrize("method", METHODS)
def test_with_a_way_to_tell_who_asks_it_is_allowed(method):
    check_exposure(Config(host="0.0.0.0", **METHODS[method]), ("0.0.0.0",))


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_the_start_is_refused_with_the_words_that_would_allow_it(command):
    done = run(command, "--host", "0.0.0.0", "--port", "0")

    assert done.returncode == os.EX_CONFIG
    assert "host: 0.0.0.0 can be reached from elsewhere" in done.stderr
    assert "PROXY_AUTH=open" in done.stderr
    assert "Traceback" not in done.stderr


def test_in_words_the_configuration_is_valid():
    assert run("check-config", "--host", "0.0.0.0", PROXY_AUTH="open").returncode == 0
    assert run("check-config", "--host", "0.0.0.0", PROXY_API_KEYS="sk-0123456789").returncode == 0


class Log:
    def __init__(self):
        self.errors = []

    def error(self, event, **fields):
        self.errors.append((event, fields["error"]))

    def info(self, event, **fields):
        pass


def test_the_last_key_cannot_be_taken_away_from_a_proxy_that_others_reach():
    configs = [Config(api_keys="sk-0123456789"), Config()]
    source = Source(lambda read_file: configs.pop(0))
    log = Log()
    settings = Settings(source, source.read(), log, new_metrics(), ("0.0.0.0",))

    assert settings.reload() is None
    assert settings.config.api_keys == "sk-0123456789"
    assert log.errors[0][0] == "config_reload_failed"
    assert "can be reached from elsewhere" in log.errors[0][1]


def test_inherited_sockets_are_looked_at_too():
    """With LISTEN_FDS the setting `host` says nothing about who can connect."""
    script = (
        "import os, socket, sys\n"
        "listener = socket.create_server(('0.0.0.0', 0))\n"
        "os.dup2(listener.fileno(), 3)\n"
        "os.set_inheritable(3, True)\n"
        "os.environ |= {'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid())}\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'proxy', 'serve', '--workers', '1'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == os.EX_CONFIG
    assert "0.0.0.0 can be reached from elsewhere" in done.stderr
