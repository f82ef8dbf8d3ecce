"""
Who asks, before anything of the request is read: nobody needs to be known, somebody, or an operator.

    open routes --------------------------------------------------------> anyone
    all others --+- no authentication is set up (access/access.py) -----> anyone
                 +- an accepted key, token or certificate --------------> that principal
                 |                          +- operators' routes: its tier must be `operator`, else Forbidden
                 +- anything else --------------------------------------> Unauthorized
"""

from proxy.access.principal import Principal
from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.record import clipped
from proxy.edge.tls import certificate_name
from proxy.errors import Forbidden


async def let_in(edge: Edge, call: Call, *, operators_only: bool) -> None:
    """
    Give the call its principal.

    Raises:
        Unauthorized, Forbidden: it has none, or one that may not.
        NotDecided: a token's issuer does not answer.
    """
    access = edge.access
    headers = call.request.headers
    principal = access.known(headers)
    if principal is None:
        principal = await access.principal(headers, certificate_name(call.request.transport))
    call.principal = principal
    if principal.name:
        call.record.principal = clipped(principal.name)
    if operators_only and access.is_required and not principal.tier.operator:
        raise Forbidden("Only principals of a tier with `operator` may read this.")


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
