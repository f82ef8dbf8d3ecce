"""What every request may need: opened once, and closed at the end."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from structlog.typing import FilteringBoundLogger

from proxy.access.access import Access
from proxy.config import Config
from proxy.edge.admission import Admission
from proxy.edge.cache import Cache
from proxy.edge.deadlines import Deadlines
from proxy.edge.edge import Edge
from proxy.edge.in_flight import InFlight
from proxy.edge.limits import Limiter
from proxy.edge.ui.watch import Watch
from proxy.observe.logs import Lines
from proxy.observe.metrics import Metrics
from proxy.observe.recent import Recent
from proxy.observe.tracing import open_tracer
from proxy.store.memory import MemoryStore
from proxy.store.shared import ValkeyStore
from proxy.store.table import Table
from proxy.store.valkey import open_link
from proxy.upstream.health import Keeper
from proxy.upstream.pool import Pool
from proxy.upstream.sweep import Sweep


@asynccontextmanager
async def opened(
    config: Config, logger: FilteringBoundLogger, metrics: Metrics, table: Table | None = None
) -> AsyncIterator[Edge]:
    """
    Open what requests need, for the upstreams that `config` names; there must be one.

    `table` is where all workers count what principals use; without one this is the only worker.

    Raises:
        ConfigError, ValueError, OSError: the configuration cannot be used.
    """
    async with AsyncExitStack() as closing:
        metrics.apply(config)
        sweep = Sweep()
        translator = ThreadPoolExecutor(1, "translate")
        closing.callback(translator.shutdown, wait=False, cancel_futures=True)
        access = Access(config, partial(_note, logger))
        closing.push_async_callback(access.close)
        pool = Pool(sweep, partial(_note, logger), metrics.replicas)
        closing.push_async_callback(pool.close)
        await pool.apply(config)
        keeper = Keeper(pool, logger.error)
        keeper.start()
        closing.push_async_callback(keeper.close)
        tracer = open_tracer(config, logger, metrics.count_spans)
        if tracer is not None:
            closing.push_async_callback(tracer.close)
        link, shared = None, None
        if config.store_url:
            link = open_link(config.store_url, logger, metrics.count_store_event, config.store_timeout_s)
            closing.push_async_callback(link.close)
            shared = ValkeyStore(link)
            closing.push_async_callback(shared.close)
        memory = MemoryStore(table or Table(1), metrics.count_store_event)
        cache = Cache(config, pool, translator, link)
        closing.callback(cache.close)
        yield Edge(
            config=config,
            logger=logger,
            lines=Lines(logger),
            metrics=metrics,
            pool=pool,
            admission=Admission(config, metrics),
            access=access,
            limiter=Limiter(config, memory, shared, metrics.count_store_event),
            cache=cache,
            deadlines=Deadlines(config),
            in_flight=InFlight(),
            recent=Recent(),
            watch=Watch(),
            sweep=sweep,
            tracer=tracer,
            link=link,
            translator=translator,
        )


#: Events that somebody should look at; so is a replica whose breaker opens.
_FAILURES: Final = frozenset({"issuer_failed", "name_not_resolved"})


def _note(logger: FilteringBoundLogger, event: str, **fields: object) -> None:
    """Write down what an issuer of tokens or a model server did: level warning where it failed."""
    is_failure = event in _FAILURES or fields.get("state") == "open"
    (logger.warning if is_failure else logger.info)(event, **fields)
