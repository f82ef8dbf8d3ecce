"""One server under examination: how it is asked, and what the checks so far have learnt of it."""

from dataclasses import dataclass, field
from enum import Enum

from proxy.config import Config
from proxy.doctor.asking import Server
from proxy.doctor.said import Round
from proxy.translate.capabilities import Findings
from proxy.translate.profile import Profile, build_profile


class Kind(Enum):
    """Who answers."""

    UNKNOWN = "a server that is not known"
    VLLM = "vLLM"
    PROXY = "a Devstral Proxy"


@dataclass
class Case:
    """Filled in by one check for later ones. `config` is the proxy's: what its settings say of this server."""

    server: Server
    config: Config
    wanted_model: str = ""
    addresses: tuple[str, ...] = ()
    kind: Kind = Kind.UNKNOWN
    version: str = ""
    model: str = ""
    max_model_len: int | None = None
    findings: Findings | None = None
    #: how requests are translated for this server
    profile: Profile = field(default_factory=lambda: build_profile("auto"))
    #: the first tool call that was asked for
    called: Round | None = None
