"""What requests share."""

from concurrent.futures import Executor

import msgspec
from structlog.typing import FilteringBoundLogger

from proxy.config import Config, secrets_of
from proxy.edge.admission import Admission
from proxy.edge.deadlines import Deadlines
from proxy.edge.in_flight import InFlight
from proxy.observe.logs import Lines
from proxy.observe.metrics import Metrics
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
    deadlines: Deadlines
    in_flight: InFlight
    sweep: Sweep
    #: for large bodies: one thread, so that they wait for each other, and the loop has one rival at most
    translator: Executor

    async def reload(self, config: Config) -> None:
        """
        Serve by `config` from now on. A request reads its configuration once, so that it sees the old or the new one.

        Raises:
            ConfigError, ValueError, OSError: it cannot be used; nothing has changed then.
        """
        self.lines.hide(secrets_of(config))
        await self.pool.apply(config)
        self.admission.resize(config)
        self.deadlines = Deadlines(config)
        self.config = config
