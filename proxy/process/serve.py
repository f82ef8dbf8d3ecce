"""The command `serve`: in this process, or in several that it looks after."""

import uvloop

from proxy.config import Config
from proxy.edge.routes import ROUTES
from proxy.observe.logs import configure_logs
from proxy.observe.metrics import Metrics
from proxy.process.cores import available_cores
from proxy.process.supervisor import supervise
from proxy.process.worker import serve_alone
from proxy.translate.answer_rules import ANSWER_RULES
from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, Choice
from proxy.upstream.retry import REASONS


def serve(config: Config) -> int:
    """
    Serve until SIGTERM or SIGINT, and return the process's exit code.

    One worker needs no supervisor: it is this process, which saves the memory of another.

    Raises:
        ConfigError: the log file cannot be opened.
    """
    logger = configure_logs(config)
    workers = config.workers or available_cores()
    metrics = new_metrics(workers)
    if workers == 1:
        return uvloop.run(serve_alone(config, logger, metrics))
    return supervise(config, logger, metrics, workers)


def new_metrics(workers: int = 1) -> Metrics:
    """Return metrics whose labels are this program's routes and rules."""
    return Metrics(workers=workers, routes=tuple(ROUTES), rules=_rule_names(), retries=REASONS)


def _rule_names() -> tuple[str, ...]:
    entries = (*MESSAGE_RULES, *CHAT_RULES)
    rules = (rule for entry in entries for rule in (entry.rules.values() if isinstance(entry, Choice) else (entry,)))
    return tuple(dict.fromkeys((*(rule.__name__ for rule in rules), *ANSWER_RULES)))
