"""
The replicas: which there are, which may get requests, and which one a request goes to.

`zones` holds those whose breakers let requests through, by where they stand. When it is empty, the least bad of all
serves: a pool that has ejected everybody is an outage of its own making.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from proxy.config import Backend, Config, checked_backends
from proxy.errors import ModelNotFound, UpstreamRejected, UpstreamUnavailable
from proxy.translate.lessons import learned_from
from proxy.translate.profile import AUTO, Profile
from proxy.upstream.breaker import Breaker, State
from proxy.upstream.choice import Ask, Policy, make_policy
from proxy.upstream.client import Connections, authorities, place_of
from proxy.upstream.probe import probe
from proxy.upstream.profiles import Profiles
from proxy.upstream.replica import Replica, Sight, Tally
from proxy.upstream.retry import RetryBudget
from proxy.upstream.sweep import Sweep
from proxy.upstream.zones import Zones

#: What the log is told: an event's name and its fields.
Note = Callable[..., Any]


class Tallies(Protocol):
    """Gives each replica its tally."""

    def tally(self, name: str) -> Tally:
        """Return the tally of the replica of that name."""


class Pool:
    """The replicas of one worker. `apply()` a configuration before use, `close()` after; see health.py for the rest."""

    def __init__(self, sweep: Sweep, note: Note, tallies: Tallies) -> None:
        self.note = note
        self._sweep = sweep
        self._tallies = tallies
        self._loop = asyncio.get_running_loop()
        self._replicas: dict[_Key, Replica] = {}
        self._retired: list[Replica] = []
        self._zones: Zones[Replica] = Zones(note)
        self._is_restricted = False
        # Workers must not take the same replicas in step.
        self._number = random.randrange(1 << 20)  # noqa: S311
        self._addresses: dict[Backend, tuple[str, ...]] = {}
        self._authorities: Mapping[str, bytes] = {}
        self.config = Config()
        self.budget = RetryBudget(0)
        self._policy: Policy = make_policy(self.config.balance)
        self._profiles = Profiles({})

    # --- which replicas there are

    @property
    def replicas(self) -> Sequence[Replica]:
        """All that requests may go to, well or not."""
        return tuple(self._replicas.values())

    @property
    def is_ready(self) -> bool:
        """Whether one of them answered its last health check and may get requests."""
        return any(
            replica.sight is Sight.HEALTHY and replica.breaker.state is not State.OPEN for replica in self.replicas
        )

    async def apply(self, config: Config) -> None:
        """
        Have the replicas that `config` names. Those that stay keep their connections and what is known of them; what
        runs on the others may end.

        Raises:
            ConfigError, ValueError, OSError: it cannot be used; nothing has changed then.
        """
        backends = checked_backends(config)
        profiles = Profiles(config.options)
        trusted = await asyncio.to_thread(authorities, backends)
        made = await self._made(config, backends, profiles, trusted)
        self.config, self._profiles, self._authorities = config, profiles, trusted
        self.budget = RetryBudget(config.retry_budget)
        self._policy = make_policy(config.balance)
        self._zones.use(config.zone, config.zone_spill)
        self._swap(made)

    async def readdress(self, backend: Backend, addresses: tuple[str, ...]) -> None:
        """The name of `backend` stands for these addresses now."""
        if self._addresses.get(backend) == addresses or backend not in self.named():
            return
        self._addresses[backend] = addresses
        self.note("replicas_resolved", backend=backend.name, addresses=len(addresses))
        backends = checked_backends(self.config)
        self._swap(await self._made(self.config, backends, self._profiles, self._authorities))

    def named(self) -> Sequence[Backend]:
        """The backends whose names are to be looked up."""
        return tuple(backend for backend in checked_backends(self.config) if backend.dns)

    async def _made(
        self, config: Config, backends: Sequence[Backend], profiles: Profiles, trusted: Mapping[str, bytes]
    ) -> dict["_Key", Replica]:
        made: dict[_Key, Replica] = {}
        try:
            for backend in backends:
                addresses: tuple[str | None, ...] = self._addresses.get(backend, ()) if backend.dns else (None,)
                for address in addresses:
                    key = (backend, address, trusted.get(backend.ca_file), _of_connections(config))
                    known = self._replicas.get(key)
                    made[key] = known or await self._new(config, backend, address, profiles)
                    if known is not None:
                        known.profile = profiles.profile_for(backend, known.findings, known.learned)
        except (OSError, ValueError):
            for key, replica in made.items():
                if key not in self._replicas:
                    await replica.connections.close()
            raise
        return made

    async def _new(self, config: Config, backend: Backend, address: str | None, profiles: Profiles) -> Replica:
        place = place_of(backend, address)
        name = backend.name if address is None else f"{place.url.host_subcomponent}:{place.url.port}"
        connections = Connections(backend, place, name, config, self._sweep)
        await connections.open()
        breaker = Breaker(config.eject_after, config.eject_s)
        profile = profiles.profile_for(backend, None, {})
        return Replica(name, backend, connections, breaker, profile, self._tallies.tally(name))

    def _swap(self, made: dict["_Key", Replica]) -> None:
        for key, replica in self._replicas.items():
            if key not in made:
                self._retired.append(replica)
        self._replicas = made
        self._is_restricted = any(replica.backend.models for replica in made.values())
        self.refresh()

    async def bury_retired(self) -> None:
        """Close the connections of replicas that are gone and on which nothing runs any more."""
        over = [replica for replica in self._retired if not replica.in_flight]
        self._retired = [replica for replica in self._retired if replica.in_flight]
        for replica in over:
            replica.tally.forget()  # not before: what ends there would be counted in the place of another
            await replica.connections.close()

    async def close(self) -> None:
        """Close every connection, also those in use."""
        for replica in (*self._replicas.values(), *self._retired):
            replica.tally.forget()
            await replica.connections.close()

    # --- what they tolerate

    async def probe(self, replica: Replica) -> bool:
        """Ask a replica with the profile `auto` what it tolerates; return whether that is all that can be known."""
        if replica.backend.profile != AUTO:
            return True
        replica.findings = await probe(replica.connections.question)
        replica.learned = {}
        if replica.findings.model is not None:
            replica.tally.serves(replica.findings.model)
        self._adapt(replica, "probed")
        return replica.findings.is_complete

    def learn(self, replica: Replica, error: UpstreamRejected, used: Profile) -> bool:
        """
        Return whether the replica has another profile now than the one that the refused request was made with.

        It has if the refusal says which rule it needs, or if that of another request said so in the meantime.
        """
        if replica.backend.profile != AUTO:
            return False
        lesson = learned_from(error.status, error.message, used.options)
        if not lesson:
            return False
        replica.learned = {**replica.learned, **lesson}
        self._adapt(replica, "learned")
        return replica.profile is not used

    def _adapt(self, replica: Replica, why: str) -> None:
        profile = self._profiles.profile_for(replica.backend, replica.findings, replica.learned)
        if profile is not replica.profile:
            replica.profile = profile
            version = None if replica.findings is None else replica.findings.vllm_version
            self.note("profile", replica=replica.name, profile=profile.name, why=why, vllm=version)

    # --- which one gets a request

    def refresh(self) -> None:
        """Find out anew which replicas are ready: after every change of one."""
        now = self._loop.time()
        self._zones.refresh([replica for replica in self._replicas.values() if replica.may_get_more(now)], now)

    @property
    def reads_prompts(self) -> bool:
        """Whether the choice depends on what a request says: that costs time to find out."""
        is_keyed = self.config.balance in ("session", "prefix") and len(self._replicas) > 1
        return is_keyed or self._is_restricted

    def choose(self, ask: Ask, model: str) -> Replica:
        """
        Return the replica that a request goes to.

        Raises:
            ModelNotFound: no replica is there for that model.
            UpstreamUnavailable: there are no replicas.
        """
        ready = self._zones.open_to((lambda replica: replica.serves(model)) if self._is_restricted else None)
        return self.take(self._picked(ready, ask) if ready else self._least_bad(self._serving(model)))

    def choose_other(
        self, ask: Ask, model: str, tried: Collection[Replica], *, lost: Replica | None = None
    ) -> Replica | None:
        """
        Return another replica than those that were tried; None if there is none that is well.

        With `lost`, to which the connection broke or did not come about, one in another zone if there is any: what
        stood beside it may be gone too, and there is no third attempt.
        """

        def is_other(replica: Replica) -> bool:
            return replica not in tried and replica.serves(model)

        ready: Sequence[Replica] = ()
        if lost is not None:
            ready = self._zones.open_to(lambda replica: replica.zone != lost.zone and is_other(replica))
        ready = ready or self._zones.open_to(is_other)
        return self.take(self._picked(ready, ask)) if ready else None

    def choose_desperately(self, model: str, tried: Collection[Replica]) -> Replica | None:
        """Return the least bad of those that were not tried: one that was away may be back before it is looked at."""
        others = [replica for replica in self._replicas.values() if replica not in tried and replica.serves(model)]
        return self.take(self._least_bad(others)) if others else None

    def _picked(self, ready: Sequence[Replica], ask: Ask) -> Replica:
        if len(ready) == 1:
            return ready[0]
        self._number += 1
        return self._policy(ready, ask._replace(number=self._number))

    def _serving(self, model: str) -> Sequence[Replica]:
        if not self._replicas:
            raise UpstreamUnavailable("No model server is known: the name of none has an address.")
        serving = [replica for replica in self._replicas.values() if replica.serves(model)]
        if not serving:
            raise ModelNotFound(f"The model {model[:100]!r} does not exist.", param="model")
        return serving

    def _least_bad(self, replicas: Sequence[Replica]) -> Replica:
        return min(replicas, key=lambda replica: (replica.breaker.badness, replica.in_flight))

    def take(self, replica: Replica) -> Replica:
        """
        Count a request that is to go to this replica: from the choice on, so that the next choice knows.

        Call `dropped()` if it does not go there, and `ended()` when it is over.
        """
        if not replica.in_flight:
            replica.connections.progress.at = self._loop.time()  # idle is not stuck
        replica.in_flight += 1
        if replica.breaker.state is not State.CLOSED:
            replica.is_on_trial = True
            self.refresh()
        return replica

    # --- what became of it

    def sent(self, replica: Replica) -> None:
        """A request goes there first, and not only was to."""
        self._zones.sent(replica)

    def dropped(self, replica: Replica) -> None:
        """The request that was to go there does not."""
        replica.in_flight -= 1
        self.untold(replica)

    def ended(self, replica: Replica) -> None:
        """The request is over, in whatever way."""
        replica.in_flight -= 1
        replica.tally.ended()

    def untold(self, replica: Replica) -> None:
        """The request tells nothing about the replica: its client left, or it was never sent."""
        if replica.is_on_trial:
            replica.is_on_trial = False
            self.refresh()

    def succeeded(self, replica: Replica) -> None:
        """The replica did what it should."""
        if replica.breaker.succeeded():
            replica.is_on_trial = False
            self._note_move(replica, "a request succeeded")
            if replica.breaker.state is State.CLOSED:
                replica.start_slowly(self._loop.time())
                replica.warm_up(self._loop.time(), self.config.slow_start_s)
            self.refresh()

    def failed(self, replica: Replica, reason: str, *, at_once: bool = False) -> None:
        """A request failed, and the replica is at fault; `at_once`: nothing listens there."""
        replica.tally.failed()
        replica.is_on_trial = False
        now = self._loop.time()
        if replica.breaker.trip(now) if at_once else replica.breaker.failed(now):
            self._note_move(replica, reason)
        self.refresh()

    def tripped(self, replica: Replica, reason: str) -> None:
        """The replica does not answer its health check, or nothing moves there."""
        if replica.breaker.trip(self._loop.time()):
            self._note_move(replica, reason)
            self.refresh()

    def healthy(self, replica: Replica) -> None:
        """The replica answered its health check."""
        if replica.breaker.healthy():
            replica.is_on_trial = False
            self._note_move(replica, "healthy")
            self.refresh()

    def _note_move(self, replica: Replica, reason: str) -> None:
        replica.tally.moved(replica.breaker.state)
        self.note("replica_state", replica=replica.name, state=replica.breaker.state.name.lower(), reason=reason)


#: What makes a replica the same after the configuration changed.
_Key = tuple[Backend, str | None, bytes | None, tuple[Any, ...]]


def _of_connections(config: Config) -> tuple[Any, ...]:
    return (
        *(config.connect_timeout_s, config.pool_idle_s, config.max_connections, config.shortcuts),
        *(config.eject_after, config.eject_s),
    )
