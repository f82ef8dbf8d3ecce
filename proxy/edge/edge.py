"""What requests share."""

from concurrent.futures import Executor

import msgspec
from structlog.typing import FilteringBoundLogger

from proxy.access.access import Access, check_access
from proxy.config import Config, secrets_of
from proxy.edge.admission import Admission
from proxy.edge.cache import Cache
from proxy.edge.deadlines import Deadlines
from proxy.edge.in_flight import InFlight
from proxy.edge.limits import Limiter
from proxy.edge.ui.watch import Watch
from proxy.observe.logs import Lines
from proxy.observe.metrics import Metrics
from proxy.observe.recent import Recent
from proxy.observe.tracing import Tracer
from proxy.store.valkey import ValkeyLink
from proxy.upstream.pool import Pool
from proxy.upstream.sweep import Sweep


class Edge(msgspec.Struct):
    """Everything that a request may need, and that outlives it. `reload()` changes what later requests see."""

    config: Config
    logger: FilteringBoundLogger
    lines: Lines
    metrics: Metrics
    pool: Pool
    admission: Admission
    access: Access
    limiter: Limiter
    cache: Cache
    deadlines: Deadlines
    in_flight: InFlight
    recent: Recent
    #: who looks at the status page
    watch: Watch
    sweep: Sweep
    #: makes spans of requests, if there is a receiver
    tracer: Tracer | None
    #: to the store that instances share, if there is one
    link: ValkeyLink | None
    #: for large bodies: one thread, so that they wait for each other, and the loop has one rival at most
    translator: Executor
    #: whether all that is listened on is loopback; the listener knows
    is_local: bool = False

    async def reload(self, config: Config) -> None:
        """
        Serve by `config` from now on. A request reads its configuration once, so that it sees the old or the new one.

        Raises:
            ConfigError, ValueError, OSError: it cannot be used; nothing has changed then.
        """
        check_access(config)
        self.lines.hide(secrets_of(config))
        await self.pool.apply(config)
        self.access.apply(config)
        self.admission.resize(config)
        self.limiter.apply(config)
        if self.link is not None:
            self.link.wait_at_most(config.store_timeout_s)
        self.cache.apply(config, self.link)
        self.metrics.apply(config)
        self.deadlines = Deadlines(config)
        self.config = config

    def tell(self) -> None:
        """Write down how things stand; it is done several times a second, for what changes more often."""
        self.admission.tell()
        self.metrics.oldest(self.in_flight.oldest_ms)
        self.metrics.caching(*self.cache.size)
        is_draining = self.in_flight.is_draining
        self.metrics.standing(is_ready=self.pool.is_ready and not is_draining, is_draining=is_draining)
