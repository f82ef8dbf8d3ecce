"""
Who asks, before anything of the request is read: nobody needs to be known, somebody, or an operator.

    open routes --------------------------------------------------------> anyone
    all others --+- no authentication is set up (access/access.py) -----> anyone
                 +- an accepted key, token or certificate --------------> that principal
                 |                          +- operators' routes: its tier must be `operator`, else Forbidden
                 +- anything else --------------------------------------> Unauthorized

Anthropic's clients send a key as `x-api-key`: on their routes it is read as `Authorization: Bearer`, which wins.
"""

from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDict, MultiMapping, istr

from proxy.access.principal import Principal
from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.record import clipped
from proxy.edge.tls import certificate_name
from proxy.errors import Forbidden
from proxy.fronts.messages import MessagesFront

_API_KEY: Final = istr("x-api-key")


async def let_in(edge: Edge, call: Call, *, operators_only: bool) -> None:
    """
    Give the call its principal.

    Raises:
        Unauthorized, Forbidden: it has none, or one that may not.
        NotDecided: a token's issuer does not answer.
    """
    access = edge.access
    headers = credentials_of(call.request) if isinstance(call.front, MessagesFront) else call.request.headers
    principal = access.known(headers)
    if principal is None:
        principal = await access.principal(headers, certificate_name(call.request.transport))
    call.principal = principal
    if principal.name:
        call.record.principal = clipped(principal.name)
    if operators_only and access.is_required and not principal.tier.operator:
        raise Forbidden("Only principals of a tier with `operator` may read this.")


def credentials_of(request: web.BaseRequest) -> MultiMapping[str]:
    """Return the headers that say who asks, an `x-api-key` as the bearer token that it is."""
    headers = request.headers
    if hdrs.AUTHORIZATION in headers or _API_KEY not in headers:
        return headers
    return CIMultiDict((hdrs.AUTHORIZATION, f"Bearer {key}") for key in headers.getall(_API_KEY))


def require_model(principal: Principal, model: str) -> None:
    """
    Raises:
        Forbidden: the principal may not ask for this model; "" is a request that names none.
    """
    if principal.tier.models and model not in principal.tier.models:
        raise Forbidden(
            f"The model {clipped(model)} is not one that may be asked for with this key."
            if model
            else "Name a model: this key may ask for some only.",
            param="model",
            code="model_not_allowed",
        )
