"""What every request may need: opened once, and closed at the end."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from structlog.typing import FilteringBoundLogger

from proxy.config import Config
from proxy.edge.admission import Admission
from proxy.edge.deadlines import Deadlines
from proxy.edge.edge import Edge
from proxy.edge.in_flight import InFlight
from proxy.observe.logs import Lines
from proxy.observe.metrics import Metrics
from proxy.upstream.health import Keeper
from proxy.upstream.pool import Pool
from proxy.upstream.sweep import Sweep


@asynccontextmanager
async def opened(config: Config, logger: FilteringBoundLogger, metrics: Metrics) -> AsyncIterator[Edge]:
    """
    Open what requests need, for the upstreams that `config` names; there must be one.

    Raises:
        ConfigError, ValueError, OSError: the configuration cannot be used.
    """
    sweep = Sweep()
    translator = ThreadPoolExecutor(1, "translate")
    pool = Pool(sweep, logger.info, metrics.replicas)
    keeper = Keeper(pool)
    try:
        await pool.apply(config)
        keeper.start()
        yield Edge(
            config=config,
            logger=logger,
            lines=Lines(logger),
            metrics=metrics,
            pool=pool,
            admission=Admission(config, metrics),
            deadlines=Deadlines(config),
            in_flight=InFlight(),
            sweep=sweep,
            translator=translator,
        )
    finally:
        translator.shutdown(wait=False, cancel_futures=True)
        await keeper.close()
        await pool.close()
