"""The records inside the settings, and what the annotations of their fields say."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

MIB: Final = 1024 * 1024
#: Arbitrary: no agent means to wait longer than a day. It keeps `inf` out of the timers.
DAY: Final = 86_400

Wait = Annotated[float, msgspec.Meta(gt=0, le=DAY)]
WaitOrZero = Annotated[float, msgspec.Meta(ge=0, le=DAY)]
Size = Annotated[int, msgspec.Meta(ge=1)]
SizeOrZero = Annotated[int, msgspec.Meta(ge=0)]


class About(NamedTuple):
    """What a field's annotation adds to its type: one sentence, its name in the environment, its kind of text."""

    doc: str
    env: str = ""
    form: str = ""
    secret: bool = False
    #: another flag for it, which other programs have for the same
    alias: str = ""


class Backend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model server, or, with `dns`, one for each address of its name."""

    url: Annotated[str, About("http://, https:// or unix: and a path.", form="URL")]
    name: Annotated[str, About("What logs, metrics and headers call it; empty is its host and port.")] = ""
    weight: Annotated[
        float, msgspec.Meta(gt=0, le=1000), About("Its share of the requests, beside the others' weights.")
    ] = 1.0
    models: Annotated[tuple[str, ...], About("The models that it serves; empty is any.")] = ()
    api_key: Annotated[str, About("The bearer token sent to it; empty is `vllm_api_key`.", form="token")] = ""
    api_key_file: Annotated[str, About("The file that holds this token.", form="path")] = ""
    profile: Annotated[str, About("Its profile; empty is `profile`.", form="name")] = ""
    zone: Annotated[str, About("Where it stands: `zone` says in which order zones are asked.")] = ""
    ca_file: Annotated[
        str, About("The certificates, in PEM, that https:// trusts; empty is the system's.", form="path")
    ] = ""
    dns: Annotated[bool, About("Whether every address of the name is a replica, looked up again and again.")] = False


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may be asked for; 0 is no limit."""

    requests_per_minute: Annotated[SizeOrZero, About("The most requests in a minute, on the average.")] = 0
    burst_s: Annotated[
        float, msgspec.Meta(gt=0, le=60), About("How many seconds' worth of these requests may come at once.")
    ] = 10
    tokens_per_minute: Annotated[
        SizeOrZero,
        About(
            "The most tokens in a minute, of prompts and answers, on the average; a minute's worth may come at once."
        ),
    ] = 0
    tokens_per_day: Annotated[SizeOrZero, About("The most tokens in a day, which begins at 00:00 UTC.")] = 0
    max_concurrent: Annotated[SizeOrZero, About("The most requests that run at once.")] = 0


class Tier(Rates, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What those who belong to it may do; each of them has the rates for himself."""

    models: Annotated[tuple[str, ...], About("The models that may be asked for; empty is any.")] = ()
    operator: Annotated[bool, About("Whether `/metrics`, `/health` and what `/ui` shows may be read.")] = False
    per_model: Annotated[Mapping[str, Rates], About("Rates of single models, beside those for all of them.")] = {}


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tier for tokens that have these scopes and claims."""

    tier: Annotated[str, About("The tier; the first grant that fits gives it.")]
    scopes: Annotated[tuple[str, ...], About("The scopes that a token must have for it.")] = ()
    claims: Annotated[
        Mapping[str, str], About("The claims that a token must have for it: the value, or a list that holds it.")
    ] = {}


class Issuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who signs JSON Web Tokens that are accepted."""

    url: Annotated[
        str, About("The issuer, as the claim `iss` spells it; https://, or http:// on loopback.", form="URL")
    ]
    audience: Annotated[tuple[str, ...], About("What `aud` must hold one of.")]
    algorithms: Annotated[
        tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...],
        About("The algorithms that are accepted; none of them takes a shared secret."),
    ] = ("RS256", "PS256", "ES256", "EdDSA")
    jwks_url: Annotated[str, About("Where its keys are; empty is where its discovery document says.", form="URL")] = ""
    ca_file: Annotated[
        str, About("The certificates, in PEM, that https:// trusts; empty is the system's.", form="path")
    ] = ""
    clock_skew_s: Annotated[float, msgspec.Meta(ge=0, le=300), About("How far clocks may be apart.")] = 30
    scopes: Annotated[tuple[str, ...], About("The scopes that every token must have.")] = ()
    claims: Annotated[
        Mapping[str, str], About("The claims that every token must have: the value, or a list that holds it.")
    ] = {}
    principal_claim: Annotated[str, About("The claim that says who it is.")] = "sub"
    grants: Annotated[tuple[Grant, ...], About("Which tokens belong to which tier.")] = ()
    tier: Annotated[
        str, About("The tier of tokens that no grant fits; empty is `default` without grants, and refused with them.")
    ] = ""


CachePolicy = Literal["off", "ask", "on"]


class ModelSettings(Rates, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What differs for one model. Null is what the setting of the same name says; the rates are over all principals."""

    timeout_s: Annotated[WaitOrZero | None, About("The longest a request may take; 0 is no limit.", form="seconds")] = (
        None
    )
    first_byte_timeout_s: Annotated[
        Wait | None, About("The longest wait for the upstream's status line and first event.", form="seconds")
    ] = None
    between_bytes_timeout_s: Annotated[Wait | None, About("The longest silence inside an answer.", form="seconds")] = (
        None
    )
    cache: Annotated[CachePolicy | None, About("Which of its answers are kept, as the setting `cache` says it.")] = None
