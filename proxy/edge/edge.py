"""What requests share."""

from concurrent.futures import Executor

import msgspec
from structlog.typing import FilteringBoundLogger

from proxy.config import Config
from proxy.edge.health import Readiness
from proxy.edge.in_flight import InFlight
from proxy.observe.logs import Lines
from proxy.observe.metrics import Metrics
from proxy.translate.profile import Profile
from proxy.upstream.client import Upstream
from proxy.upstream.sweep import Sweep


class Edge(msgspec.Struct, frozen=True):
    """Everything that a request may need, and that outlives it."""

    config: Config
    logger: FilteringBoundLogger
    lines: Lines
    metrics: Metrics
    profile: Profile
    upstream: Upstream
    readiness: Readiness
    in_flight: InFlight
    sweep: Sweep
    #: for large bodies: one thread, so that they wait for each other, and the loop has one rival at most
    translator: Executor
