"""The log: lines as lists of dicts, and what never stands in one."""

import base64
import io
import json
import logging
import os
import re

import pytest

from proxy.config import Config, ConfigError
from proxy.errors import InvalidRequest, UpstreamRejected
from proxy.observe.logs import LIBRARIES, configure_logs, render_exception

SECRET = 'sk-canary-"7f3a91\\'
CONTENT = "the client's words"


@pytest.fixture(autouse=True)
def _restored_library_loggers():
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "proxy.log"


@pytest.fixture
def lines(path):
    """Return the lines logged so far, without their timestamps."""

    def read():
        decoded = [json.loads(line) for line in path.read_bytes().splitlines()]
        return [{name: value for name, value in line.items() if name != "timestamp"} for line in decoded]

    return read


def logger_for(path, **settings):
    return configure_logs(Config(log_file=str(path), **settings))


def test_a_line_is_the_event_its_fields_and_its_level(path, lines):
    logger = logger_for(path).bind(request_id="r-1")

    logger.info("request", status=200, repairs=["nine_char_tool_ids"], model=None)
    logger.warning("upstream_lost")

    assert lines() == [
        {
            "event": "request",
            "level": "info",
            "request_id": "r-1",
            "status": 200,
            "repairs": ["nine_char_tool_ids"],
            "model": None,
        },
        {"event": "upstream_lost", "level": "warning", "request_id": "r-1"},
    ]


def test_timestamps_are_rfc_3339_in_utc(path):
    logger_for(path).info("request")

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", json.loads(path.read_bytes())["timestamp"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["info", "warning", "error"]),
        ({"log_level": "warning"}, ["warning", "error"]),
        ({"log_level": "error"}, ["error"]),
        ({"log_level": "debug"}, ["debug", "info", "warning", "error"]),
        ({"log_level": "error", "debug": True}, ["debug", "info", "warning", "error"]),
    ],
)
def test_the_level_decides_what_is_logged(path, lines, settings, expected):
    logger = logger_for(path, **settings)

    for level in ("debug", "info", "warning", "error"):
        getattr(logger, level)("request")

    assert [line["level"] for line in lines()] == expected


def test_without_a_file_lines_go_to_standard_output(capfdbinary):
    configure_logs(Config()).info("request")

    assert json.loads(capfdbinary.readouterr().out)["event"] == "request"


def test_a_file_is_appended_to(path, lines):
    logger_for(path).info("first_run")
    logger_for(path).info("second_run")

    assert [line["event"] for line in lines()] == ["first_run", "second_run"]


def test_two_loggers_in_one_process_keep_to_their_files(tmp_path):
    one, two = logger_for(tmp_path / "one", log_level="error"), logger_for(tmp_path / "two")

    one.info("request")
    two.info("request")

    assert ((tmp_path / "one").read_bytes(), (tmp_path / "two").read_bytes().count(b"\n")) == (b"", 1)


@pytest.mark.parametrize("place", ["absent/proxy.log", "."])
def test_a_file_that_cannot_be_opened_is_a_config_error(tmp_path, place):
    with pytest.raises(ConfigError, match="log_file: "):
        logger_for(tmp_path / place)


def test_a_log_that_cannot_be_written_costs_the_line_only(path):
    """A pipe that nobody reads any more refuses every write, as a full disk does."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    logger = logger_for(path)
    logger.info("read")
    received = os.read(reader, 1000)
    os.close(reader)

    logger.info("lost")

    assert json.loads(received)["event"] == "read"


# --- exceptions


def fail(error, cause=None):
    prompt = CONTENT  # a local variable that a traceback with locals would show
    raise error from cause if prompt else None


def caught(error, cause=None):
    with pytest.raises(type(error)) as info:
        fail(error, cause)
    return info.value


def test_an_exception_is_logged_as_its_traceback_without_locals(path, lines):
    logger_for(path).error("failed", exc_info=caught(InvalidRequest("messages[0].role is missing")))

    [line] = lines()
    assert set(line) == {"event", "level", "exception"}
    assert f"in {fail.__name__}\n" in line["exception"]
    assert line["exception"].endswith("proxy.errors.InvalidRequest: messages[0].role is missing")
    assert CONTENT not in line["exception"]


@pytest.mark.parametrize("error", [KeyError(CONTENT), ValueError(CONTENT), UpstreamRejected(400, CONTENT, kind="x")])
def test_the_text_of_an_exception_that_may_quote_content_is_withheld(error):
    rendered = render_exception(caught(error))

    assert CONTENT not in rendered
    assert rendered.endswith(f"{type(error).__module__}.{type(error).__name__}")


def test_causes_come_first_and_a_circle_of_causes_ends():
    first, second = OSError("disk"), RuntimeError("wrapped")
    rendered = render_exception(caught(second, first))
    first.__cause__ = second

    assert rendered.index("builtins.OSError: disk") < rendered.index("builtins.RuntimeError")
    assert render_exception(second).count("builtins.RuntimeError") == 1


# --- values that JSON has no form for


def test_a_value_without_a_json_form_is_named_by_its_type(path, lines):
    logger_for(path).info("request", body=CONTENT.encode(), headers=io.StringIO(CONTENT))

    assert lines() == [{"event": "request", "level": "info", "body": "<bytes>", "headers": "<StringIO>"}]


def test_undecodable_bytes_of_a_header_do_not_lose_the_line(path, lines):
    logger_for(path).info(
        "request", path=b"/caf\xe9".decode("utf-8", "surrogateescape"), tokens=2**70, ok=True, model=None
    )

    assert lines() == [
        {"event": "request", "level": "info", "path": "/caf?", "tokens": str(2**70), "ok": True, "model": None}
    ]


# --- the key


def spellings_of(secret):
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], base64.b64encode(secret.encode()).decode()}


def test_the_key_is_in_no_line_at_any_level(path):
    config = Config(log_file=str(path), vllm_api_key=SECRET, debug=True)
    logger = configure_logs(config).bind(config=repr(config))

    logger.debug("request", headers={"Authorization": f"Bearer {SECRET}"}, nested=[[SECRET]])
    logger.error("failed", exc_info=caught(OSError(f"cannot connect with {SECRET}")))
    logging.getLogger("aiohttp.server").error("header %s", SECRET, exc_info=caught(ValueError(SECRET)))

    logged = path.read_text(encoding="utf-8")
    assert logged.count("\n") == 3
    assert logged.count("***") == 6
    assert [spelling for spelling in spellings_of(SECRET) if spelling in logged] == []


def test_a_placeholder_for_a_key_does_not_spoil_words(path, lines):
    logger_for(path, vllm_api_key="EMPTY").info("request", note="EMPTY")

    assert lines() == [{"event": "request", "level": "info", "note": "EMPTY"}]


# --- libraries


@pytest.mark.parametrize("name", ["aiohttp.server", "aiohttp.client", "asyncio"])
def test_a_librarys_warnings_and_errors_become_lines(path, lines, name):
    logger_for(path)
    library = logging.getLogger(name)

    library.info("not of interest")
    library.warning("Unclosed %s", "connection")
    library.error("Task exception was never retrieved\nfuture: <Task exception=ValueError(%r)>", CONTENT)

    assert lines() == [
        {"event": "library", "level": "warning", "library": name, "message": "Unclosed connection"},
        {"event": "library", "level": "error", "library": name, "message": "Task exception was never retrieved"},
    ]


def test_a_librarys_exception_is_logged_without_what_it_quotes(path, lines):
    logger_for(path)

    logging.getLogger("aiohttp.server").error("Error handling request", exc_info=caught(ValueError(CONTENT)))

    [line] = lines()
    assert line["exception"].endswith("builtins.ValueError")
    assert CONTENT not in json.dumps(line)
