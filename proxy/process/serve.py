"""The command `serve`: in this process, or in several that it looks after."""

import os

import uvloop

from proxy.access.exposure import check_exposure
from proxy.config import Config
from proxy.edge.routes import ROUTES
from proxy.fronts.table import FRONT_RULES
from proxy.observe.logs import configure_logs, finish_log
from proxy.observe.metrics import Metrics
from proxy.process.address import Address, Addresses, HeldAddress, address_of
from proxy.process.announcements import Announcements
from proxy.process.cores import available_cores
from proxy.process.limits import raise_open_files
from proxy.process.notify import manager_of
from proxy.process.reload import Load, Settings, Source, check
from proxy.process.supervisor import Supervisor
from proxy.process.worker import cannot_listen, serve_alone
from proxy.store.decision import EVENTS
from proxy.store.table import Table
from proxy.translate.answer_rules import ANSWER_RULES
from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, Choice
from proxy.upstream.error_kind import KINDS
from proxy.upstream.retry import REASONS


def serve(load: Load) -> int:
    """
    Serve until SIGTERM or SIGINT, and return the process's exit code.

    One worker needs no supervisor: it is this process, which saves the memory of another.

    Raises:
        ConfigError: the settings cannot be used, or the log file cannot be opened.
    """
    source = Source(load)
    config = source.read()
    logger = configure_logs(config)
    workers = config.workers or available_cores()
    context = check(config)
    metrics = new_metrics(workers)
    table = Table(workers)
    open_files = raise_open_files()
    try:
        address = address_of(config.host, config.port, os.environ, is_shared=config.reuse_port)
    except OSError as exc:
        return cannot_listen(config.host, config.port, exc)
    check_exposure(config, address.hosts)
    try:
        addresses = Addresses(address, _of_metrics(config))
    except OSError as exc:
        return cannot_listen(config.metrics_host, config.metrics_port, exc)
    settings = Settings(source, config, logger, metrics, address.hosts, context)
    announcements = Announcements(
        config, logger, addresses, workers=workers, open_files=open_files, manager=manager_of(os.environ)
    )
    try:
        if workers == 1:
            return uvloop.run(serve_alone(settings, logger, metrics, table, addresses, announcements))
        return Supervisor(settings, logger, metrics, table, addresses, announcements, workers).run()
    finally:
        finish_log(logger)


def _of_metrics(config: Config) -> Address | None:
    if not config.metrics_port:
        return None
    return HeldAddress(config.metrics_host, config.metrics_port, is_shared=config.reuse_port)


def new_metrics(workers: int = 1) -> Metrics:
    """Return metrics whose labels are this program's routes and rules."""
    return Metrics(
        workers=workers,
        routes=tuple(ROUTES),
        rules=_rule_names(),
        retries=REASONS,
        store_events=EVENTS,
        upstream_errors=KINDS,
    )


def _rule_names() -> tuple[str, ...]:
    entries = (*MESSAGE_RULES, *CHAT_RULES)
    rules = (rule for entry in entries for rule in (entry.rules.values() if isinstance(entry, Choice) else (entry,)))
    return tuple(dict.fromkeys((*(rule.__name__ for rule in (*FRONT_RULES, *rules)), *ANSWER_RULES)))
