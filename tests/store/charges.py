"""Charges as tests need them."""

from proxy.config import Rates
from proxy.store.decision import Charge, Scope, key_of
from proxy.store.gcra import terms_of


def charge(name: str = "alice", scope: Scope = Scope.PRINCIPAL, **rates: float) -> Charge:
    """A charge of this principal, or of this model."""
    model = name if scope is Scope.MODEL else ""
    return Charge(scope, key_of(scope, name, model), terms_of(Rates(**rates)))
