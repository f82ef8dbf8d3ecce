"""Settings: the four sources and their order, and what a wrong name or value is answered with."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import (
    MASK,
    OPTIONS,
    SETTINGS,
    Backend,
    Config,
    ConfigError,
    Grant,
    Issuer,
    ModelSettings,
    Rates,
    Tier,
    checked_backends,
    load_config,
    masked,
)

SECRET = "sk-canary-7f3a91"


def load(*argv, environ=None, files=None):
    files = files or {}

    def read_file(path):
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    return load_config(argv, environ or {}, read_file)


def refusal(*argv, **sources):
    with pytest.raises(ConfigError) as caught:
        load(*argv, **sources)
    return str(caught.value)


#: For every setting: (text as in a flag or a variable, the same as TOML, the value).
SAMPLES = {
    "vllm_base": ("http://gpu:8000/v1", '"http://gpu:8000/v1"', "http://gpu:8000"),
    "vllm_api_key": (SECRET, f'"{SECRET}"', SECRET),
    "host": ("0.0.0.0", '"0.0.0.0"', "0.0.0.0"),
    "port": ("0", "0", 0),
    "metrics_port": ("9100", "9100", 9100),
    "metrics_host": ("10.0.0.7", '"10.0.0.7"', "10.0.0.7"),
    "metrics_auth": ("open", '"open"', "open"),
    "workers": ("4", "4", 4),
    "backends": (
        '[{"url": "http://a:1"}, {"url": "unix:/run/b.sock", "name": "b", "weight": 2, "models": ["m"]}]',
        '[{url = "http://a:1"}, {url = "unix:/run/b.sock", name = "b", weight = 2, models = ["m"]}]',
        (Backend(url="http://a:1"), Backend(url="unix:/run/b.sock", name="b", weight=2.0, models=("m",))),
    ),
    "models": (
        '{"devstral": {"first_byte_timeout_s": 900}}',
        "{devstral = {first_byte_timeout_s = 900}}",
        {"devstral": ModelSettings(first_byte_timeout_s=900.0)},
    ),
    "profile": ("vllm-hf-template", '"vllm-hf-template"', "vllm-hf-template"),
    "options": ("bridge=never", "{bridge = 'never'}", {"bridge": "never"}),
    "strict": ("yes", "true", True),
    "debug": ("on", "true", True),
    "log_level": ("WARNING", '"warning"', "warning"),
    "log_file": ("/var/log/proxy.log", '"/var/log/proxy.log"', "/var/log/proxy.log"),
    "log_sample": ("0.1", "0.1", 0.1),
    "log_slow_s": ("30", "30", 30.0),
    "timeout_s": ("0.5", "0.5", 0.5),
    "connect_timeout_s": ("1", "1", 1.0),
    "first_byte_timeout_s": ("600", "600", 600.0),
    "between_bytes_timeout_s": ("7.25", "7.25", 7.25),
    "keep_alive_s": ("5", "5", 5.0),
    "read_timeout_s": ("5", "5", 5.0),
    "max_connections": ("1", "1", 1),
    "pool_idle_s": ("4", "4", 4.0),
    "max_body_bytes": ("1048576", "1048576", 1048576),
    "max_event_bytes": ("65536", "65536", 65536),
    "shortcuts": ("none", '"none"', "none"),
    "drain_timeout_s": ("0", "0", 0.0),
    "drain_delay_s": ("0", "0", 0.0),
    "reuse_port": ("on", "true", True),
    "watch_config_s": ("0", "0", 0.0),
    "longest_timeout_s": ("60", "60", 60.0),
    "header_timeout_s": ("3", "3", 3.0),
    "write_timeout_s": ("20", "20", 20.0),
    "client_idle_s": ("60", "60", 60.0),
    "balance": ("prefix", '"prefix"', "prefix"),
    "session_header": ("x-conversation", '"x-conversation"', "x-conversation"),
    "zone": ("eu-1a,eu-1b", '"eu-1a,eu-1b"', "eu-1a,eu-1b"),
    "zone_spill": ("8", "8", 8),
    "dns_refresh_s": ("30", "30", 30.0),
    "health_interval_s": ("1.5", "1.5", 1.5),
    "eject_after": ("3", "3", 3),
    "eject_s": ("2", "2", 2.0),
    "slow_start_s": ("0", "0", 0.0),
    "wedge_timeout_s": ("0", "0", 0.0),
    "max_attempts": ("1", "1", 1),
    "retry_budget": ("0.1", "0.1", 0.1),
    "failover": ("off", '"off"', "off"),
    "max_in_flight": ("100", "100", 100),
    "max_queue": ("0", "0", 0),
    "queue_timeout_s": ("1", "1", 1.0),
    "batch_keys": (f"{SECRET},k2", f'"{SECRET},k2"', f"{SECRET},k2"),
    "max_buffered_bytes": ("1048576", "1048576", 1048576),
    "auth": ("open", '"open"', "open"),
    "ui": ("off", '"off"', "off"),
    "api_keys": (f"{SECRET},k2", f'"{SECRET},k2"', f"{SECRET},k2"),
    "keys": (f"{SECRET} of many", f'"{SECRET} of many"', f"{SECRET} of many"),
    "issuers": (
        '[{"url": "https://id.example", "audience": ["proxy"], "grants": [{"tier": "gold", "scopes": ["llm"]}]}]',
        '[{url = "https://id.example", audience = ["proxy"], grants = [{tier = "gold", scopes = ["llm"]}]}]',
        (Issuer(url="https://id.example", audience=("proxy",), grants=(Grant(tier="gold", scopes=("llm",)),)),),
    ),
    "tiers": (
        '{"gold": {"models": ["m"], "requests_per_minute": 60, "per_model": {"m": {"max_concurrent": 2}}}}',
        '{gold = {models = ["m"], requests_per_minute = 60, per_model = {m = {max_concurrent = 2}}}}',
        {"gold": Tier(models=("m",), requests_per_minute=60, per_model={"m": Rates(max_concurrent=2)})},
    ),
    "tls_cert_file": ("/etc/proxy/tls.crt", '"/etc/proxy/tls.crt"', "/etc/proxy/tls.crt"),
    "tls_key_file": ("/etc/proxy/tls.key", '"/etc/proxy/tls.key"', "/etc/proxy/tls.key"),
    "tls_client_ca_file": ("/etc/proxy/ca.crt", '"/etc/proxy/ca.crt"', "/etc/proxy/ca.crt"),
    "store_url": ("redis://:pw@127.0.0.1:6379/0", '"redis://:pw@127.0.0.1:6379/0"', "redis://:pw@127.0.0.1:6379/0"),
    "store_failure": ("closed", '"closed"', "closed"),
    "store_timeout_s": ("0.5", "0.5", 0.5),
    "otlp_endpoint": ("http://127.0.0.1:4318", '"http://127.0.0.1:4318"', "http://127.0.0.1:4318"),
    "otlp_traces_endpoint": ("https://otel.example/t", '"https://otel.example/t"', "https://otel.example/t"),
    "otlp_headers": (f"api-key={SECRET},x-b=1", f'"api-key={SECRET},x-b=1"', f"api-key={SECRET},x-b=1"),
    "otel_sdk_disabled": ("true", "true", True),
    "cache": ("ask", '"ask"', "ask"),
    "cache_ttl_s": ("60", "60", 60.0),
    "cache_max_bytes": ("1048576", "1048576", 1048576),
    "cache_shared": ("on", "true", True),
}


def test_every_setting_has_a_sample_here():
    assert set(SAMPLES) == set(SETTINGS)


def test_nothing_set_gives_the_defaults():
    assert load() == Config()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_variable_sets_its_setting(name):
    text, _, value = SAMPLES[name]

    config = load(environ={SETTINGS[name].variables[0]: text})

    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(value)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_flag_sets_its_setting(name):
    text, _, value = SAMPLES[name]
    argument, files = ("key.txt", {"key.txt": text + "\n"}) if SETTINGS[name].about.secret else (text, {})

    apart = load(SETTINGS[name].flag, argument, files=files)
    joined = load(f"{SETTINGS[name].flag}={argument}", files=files)

    assert getattr(apart, name) == getattr(joined, name) == value


@pytest.mark.parametrize("name", SAMPLES)
def test_a_key_of_the_file_sets_its_setting(name):
    _, toml, value = SAMPLES[name]

    config = load("--config", "proxy.toml", files={"proxy.toml": f"{name} = {toml}"})

    assert getattr(config, name) == value


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_file():
    files = {"proxy.toml": "port = 1001\nlog_level = 'error'\nstrict = true"}
    environ = {"PROXY_PORT": "1002", "LOG_LEVEL": "warning"}

    config = load("--config", "proxy.toml", "--port", "1003", environ=environ, files=files)

    assert (config.port, config.log_level, config.strict) == (1003, "warning", True)


def test_options_are_merged_name_by_name():
    files = {"proxy.toml": "[options]\nbridge = 'always'\nvision = false\nparam_drop = ['seed']"}
    environ = {"PROXY_OPTIONS": "bridge=never, mid_system=keep"}

    config = load("--config", "proxy.toml", "--option", "mid_system=hoist", environ=environ, files=files)

    assert config.options == {"bridge": "never", "vision": False, "param_drop": ("seed",), "mid_system": "hoist"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bridge=never", {"bridge": "never"}),
        ("bridge=NEVER,vision=off", {"bridge": "never", "vision": False}),
        ("param_drop=seed,logprobs,bridge=never", {"param_drop": ("seed", "logprobs"), "bridge": "never"}),
        ("continue_text=Go on, please.", {"continue_text": "Go on, please."}),
        ("default_temperature=0.15", {"default_temperature": 0.15}),
        ("default_temperature=null", {"default_temperature": None}),
        ('param_set={"top_k": 5, "safe": true}', {"param_set": {"top_k": 5, "safe": True}}),
        ("bridge=never,", {"bridge": "never"}),
    ],
)
def test_option_text_is_read_by_the_options_type(text, expected):
    assert load(environ={"PROXY_OPTIONS": text}).options == expected


def test_an_empty_variable_counts_as_unset():
    assert load(environ=dict.fromkeys(("PROXY_PORT", "VLLM_BASE", "LOG_LEVEL", "VLLM_API_KEY_FILE"), "")) == Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [(word, True) for word in ("1", "true", "True", "yes", "ON")]
    + [(word, False) for word in ("0", "false", "no", "Off")],
)
def test_booleans_take_the_usual_words(text, expected):
    assert load(environ={"DEBUG": text}).debug is expected


def test_a_bare_boolean_flag_means_true():
    assert load("--strict", "--port", "0").strict is True


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://localhost:8000/v1", "http://localhost:8000"),
        ("http://localhost:8000/v1/", "http://localhost:8000"),
        ("https://gpu.example/team/a/v1/", "https://gpu.example/team/a"),
        ("https://gpu.example/api/v1beta", "https://gpu.example/api/v1beta"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
    ],
)
def test_the_upstream_is_kept_without_slash_and_version(url, expected):
    assert load(environ={"VLLM_BASE": url}).vllm_base == expected


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:8000", "expected http://HOST"),
        ("ftp://gpu:21", "expected http://HOST"),
        ("http://", "expected http://HOST"),
        ("http://:8000", "expected http://HOST"),
        ("http://gpu:port", "expected http://HOST"),
        ("http://gpu:99999", "expected http://HOST"),
        ("http://gpu:0", "expected http://HOST"),
        ("http://[::1", "expected http://HOST"),
        ("http://g pu:8000", "expected http://HOST"),
        ("http://gpu:8000\n", "expected http://HOST"),
        (f"http://me:{SECRET}@gpu:8000", "user name or a password"),
        (f"http://gpu:8000/?key={SECRET}", "query or a fragment"),
        ("http://gpu:8000?", "query or a fragment"),
        ("http://gpu:8000/#top", "query or a fragment"),
    ],
)
def test_a_url_that_is_no_upstream_is_refused_and_not_quoted(url, problem):
    message = refusal(environ={"VLLM_BASE": url})

    assert message.startswith("environment variable VLLM_BASE: ")
    assert problem in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("host", "url", "refused"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000", True),
        ("127.0.0.1", "http://localhost:9000/v1", True),
        ("0.0.0.0", "http://localhost:9000", True),
        ("127.0.0.1", "http://127.0.0.1:8000", False),
        ("127.0.0.1", "http://gpu:9000", False),
        ("10.0.0.5", "http://10.0.0.5:9000", True),
    ],
)
def test_a_proxy_in_front_of_itself_is_refused(host, url, refused):
    if refused:
        assert "vllm_base" in refusal("--host", host, "--vllm-base", url)
    else:
        assert load("--host", host, "--vllm-base", url).vllm_base == url


def test_several_upstreams_may_stand_in_one_setting():
    config = load(environ={"VLLM_BASE": "http://a:8000/v1, https://b/", "VLLM_API_KEY": SECRET})

    assert config.vllm_base == "http://a:8000,https://b"
    assert [(each.url, each.name, each.api_key) for each in checked_backends(config)] == [
        ("http://a:8000", "a:8000", SECRET),
        ("https://b", "b:443", SECRET),
    ]


def test_a_backend_has_its_own_key_profile_and_name_or_the_common_ones():
    files = {
        "p.toml": """
            vllm_api_key = "common"
            profile = "vllm-hf-template"
            [[backends]]
            url = "http://a:1/v1/"
            [[backends]]
            url = "unix:/run/b.sock"
            name = "b"
            api_key_file = "b.key"
            profile = "passthrough"
            """,
        "b.key": f"{SECRET}\n",
    }

    config = load("--config", "p.toml", files=files)

    first, second = checked_backends(config)
    assert (first.url, first.name, first.api_key, first.profile) == ("http://a:1", "a:1", "common", "vllm-hf-template")
    assert (second.url, second.name, second.api_key, second.profile) == (
        "unix:/run/b.sock",
        "b",
        SECRET,
        "passthrough",
    )
    assert SECRET not in f"{masked(config)}{config!r}"


BAD_BACKENDS = {
    "no url": ("name = 'a'", "backends: object missing required field `url`"),
    "unknown key": ("url = 'http://a'\nwight = 2", "object contains unknown field `wight`"),
    "weight of nothing": ("url = 'http://a'\nweight = 0", "expected `float` > 0"),
    "bad url": ("url = 'gpu:8000'", "backends[0]: expected http://HOST"),
    "relative socket": ("url = 'unix:run/v.sock'", "expected unix:/PATH"),
    "unknown profile": ("url = 'http://a'\nprofile = 'vlm'", "backends[0]: profile: use one of"),
    "addresses of a socket": ("url = 'unix:/run/v.sock'\ndns = true", "a socket's path has no addresses"),
    "certificates for http": ("url = 'http://a'\nca_file = 'ca.pem'", "only https:// has certificates"),
    "two keys": ("url = 'http://a'\napi_key = 'k'\napi_key_file = 'f'", "api_key and api_key_file are both set"),
    "key file that is absent": ("url = 'http://a'\napi_key_file = 'f'", "backends[0].api_key_file: cannot read f"),
    "one name twice": ("url = 'http://a'\n[[backends]]\nurl = 'http://a:80'", "two upstreams are called a:80"),
    "itself": ("url = 'http://b'\n[[backends]]\nurl = 'http://localhost:9000'", "points at the address"),
}


@pytest.mark.parametrize(("table", "problem"), BAD_BACKENDS.values(), ids=BAD_BACKENDS)
def test_a_backend_that_cannot_be_used_is_refused(table, problem):
    assert problem in refusal("--config", "p.toml", files={"p.toml": f"[[backends]]\n{table}"})


def test_both_ways_to_name_upstreams_at_once_are_refused():
    files = {"p.toml": "vllm_base = 'http://a'\n[[backends]]\nurl = 'http://b'"}

    assert "vllm_base and backends are both set" in refusal("--config", "p.toml", files=files)


BAD = {
    "unknown flag": (["--prot=1"], {}, {}, "unknown flag --prot; did you mean --port?"),
    "unknown variable": (
        [],
        {"PROXY_PRT": "1"},
        {},
        "unknown environment variable PROXY_PRT; did you mean PROXY_PORT?",
    ),
    "unknown key": (
        ["--config", "p.toml"],
        {},
        {"p.toml": "log_levle = 'info'"},
        "unknown key in p.toml: log_levle; did you mean log_level?",
    ),
    "nothing near": (
        [],
        {"PROXY_QQQQQQQQQQQQ": "1"},
        {},
        "unknown environment variable PROXY_QQQQQQQQQQQQ; see devstral-proxy --help",
    ),
    "unknown option in a flag": (["--option", "brige=never"], {}, {}, "unknown option brige; did you mean bridge?"),
    "unknown option in a variable": ([], {"PROXY_OPTIONS": "brige=never"}, {}, "PROXY_OPTIONS: unknown option brige"),
    "unknown option in the file": (
        ["--config", "p.toml"],
        {},
        {"p.toml": "[options]\nbrige=1"},
        "p.toml: options: unknown",
    ),
    "option without a value": (["--option", "bridge"], {}, {}, "flag --option: expected NAME=VALUE"),
    "option of a wrong value": (
        ["--option", "bridge=nevr"],
        {},
        {},
        "option bridge: expected auto or always or never, got 'nevr'",
    ),
    "options that are no table": (
        ["--config", "p.toml"],
        {},
        {"p.toml": "options = 3"},
        "p.toml: options: expected a table",
    ),
    "option of a wrong type": (
        ["--config", "p.toml"],
        {},
        {"p.toml": "[options]\nvision = 1"},
        "options.vision: expected true",
    ),
    "option that is no JSON": (["--option", "param_set={"], {}, {}, "option param_set: expected JSON object"),
    "port over the limit": (
        ["--port", "70000"],
        {},
        {},
        "flag --port: expected whole number, at least 0, at most 65535",
    ),
    "port in words": ([], {"PROXY_PORT": "http"}, {}, "environment variable PROXY_PORT: expected whole number"),
    "number as text in the file": (
        ["--config", "p.toml"],
        {},
        {"p.toml": "port = '9000'"},
        "p.toml: port: expected whole",
    ),
    "negative time": ([], {"TIMEOUT": "-1"}, {}, "environment variable TIMEOUT: expected number, at least 0"),
    "endless time": ([], {"READ_TIMEOUT": "inf"}, {}, "READ_TIMEOUT: expected number, more than 0, at most 86400"),
    "time that is no number": ([], {"READ_TIMEOUT": "nan"}, {}, "READ_TIMEOUT: expected number"),
    "no wait at all": ([], {"CONNECT_TIMEOUT": "0"}, {}, "CONNECT_TIMEOUT: expected number, more than 0"),
    "half a connection": ([], {"MAX_CONNECTIONS": "0.5"}, {}, "MAX_CONNECTIONS: expected whole number, at least 1"),
    "boolean in other words": (
        [],
        {"DEBUG": "maybe"},
        {},
        "environment variable DEBUG: expected true or false, got 'maybe'",
    ),
    "level": (
        ["--log-level", "loud"],
        {},
        {},
        "flag --log-level: expected debug or info or warning or error, got 'loud'",
    ),
    "profile": (
        ["--profile", "vllm-hf-templte"],
        {},
        {},
        "flag --profile: unknown profile vllm-hf-templte; did you mean vllm-hf",
    ),
    "profile that is like no other": (
        ["--profile", "devstral"],
        {},
        {},
        "flag --profile: unknown profile devstral; use one of auto, vllm-mistral-tokenizer, vllm-hf-template, ",
    ),
    "file that is absent": (
        ["--config", "p.toml"],
        {},
        {},
        "flag --config: cannot read p.toml: No such file or directory",
    ),
    "file that is no TOML": (["--config", "p.toml"], {}, {"p.toml": "port ="}, "p.toml: not valid TOML"),
    "key and key file": (
        [],
        {"VLLM_API_KEY": SECRET, "VLLM_API_KEY_FILE": "key.txt"},
        {"key.txt": SECRET},
        "vllm_api_key and vllm_api_key_file are both set",
    ),
    "key file that is absent": ([], {"VLLM_API_KEY_FILE": "key.txt"}, {}, "VLLM_API_KEY_FILE: cannot read key.txt"),
    "key file that is empty": ([], {"VLLM_API_KEY_FILE": "key.txt"}, {"key.txt": "\n"}, "the file is empty"),
    "key with a line break": (
        [],
        {"VLLM_API_KEY": f"{SECRET}\nX-Evil: 1"},
        {},
        "VLLM_API_KEY: the key must be printable",
    ),
    "key as a flag": (
        ["--vllm-api-key", SECRET],
        {},
        {},
        "unknown flag --vllm-api-key; did you mean --vllm-api-key-file?",
    ),
    "key as a flag, joined": ([f"--vllm-api-key={SECRET}"], {}, {}, "unknown flag --vllm-api-key;"),
    "key as a number": (
        ["--config", "p.toml"],
        {},
        {"p.toml": "vllm_api_key = 7391042"},
        "p.toml: vllm_api_key: expected text",
    ),
    "flag without its value": (["--port"], {}, {}, "--port"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_setting_is_named_with_its_origin_and_problem(case):
    argv, environ, files, expected = BAD[case]

    message = refusal(*argv, environ=environ, files=files)

    assert expected in message
    assert SECRET not in message
    assert "7391042" not in message


def test_a_file_that_is_not_text_is_refused():
    def read_file(path):
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    with pytest.raises(ConfigError, match="not a file of UTF-8 text"):
        load_config(["--config", "p.toml"], {}, read_file)


def test_a_key_file_loses_its_newline():
    config = load(environ={"VLLM_API_KEY_FILE": "/run/secrets/key"}, files={"/run/secrets/key": f"{SECRET}\n"})

    assert config.vllm_api_key == SECRET


def test_a_key_file_from_a_flag_wins_over_a_key_from_the_environment():
    config = load("--vllm-api-key-file", "k", environ={"VLLM_API_KEY": "other"}, files={"k": SECRET})

    assert config.vllm_api_key == SECRET


def test_the_key_is_in_no_text_form_of_the_settings():
    config = load(environ={"VLLM_API_KEY": SECRET})

    assert masked(config)["vllm_api_key"] == MASK
    for text in (repr(config), str(config), f"{config}", repr(masked(config))):
        assert SECRET not in text


def test_an_absent_key_is_not_masked_as_if_it_were_there():
    assert masked(load())["vllm_api_key"] == ""


def test_the_environment_of_other_programs_is_left_alone():
    assert load(environ={"PATH": "/bin", "HTTP_PROXY": "http://other:3128", "VLLM_WORKER": "1"}) == Config()


def test_no_two_settings_share_a_name():
    for names in (
        [row.flag for row in SETTINGS.values()],
        [name for row in SETTINGS.values() for name in row.variables],
        [key for row in SETTINGS.values() for key in row.keys],
    ):
        assert len(names) == len(set(names))


def test_every_setting_is_described_in_one_sentence():
    for row in SETTINGS.values():
        assert re.fullmatch(r"[A-Z][^.]*\.", row.about.doc), row.name


@given(
    st.dictionaries(
        st.sampled_from([name for row in SETTINGS.values() for name in row.variables]), st.text(max_size=20)
    )
)
def test_any_environment_gives_settings_or_a_config_error(environ):
    try:
        config = load(environ=environ)
    except ConfigError:
        return
    assert isinstance(config, Config)


@given(st.lists(st.one_of(st.sampled_from([row.flag for row in SETTINGS.values()]), st.text(max_size=12)), max_size=5))
def test_any_flags_give_settings_or_a_config_error(argv):
    try:
        config = load(*argv)
    except ConfigError:
        return
    assert isinstance(config, Config)


@given(st.sampled_from(sorted(OPTIONS)), st.text(max_size=20))
def test_any_option_text_gives_that_option_or_a_config_error_that_names_it(name, text):
    try:
        named = repr(load("--option", f"{name}={text}").options)
    except ConfigError as refused:
        named = str(refused)

    assert name in named
