"""The profile of each replica: the one that is configured, or what `auto` has found out."""

from collections.abc import Mapping
from typing import Any

from proxy.config import Backend
from proxy.translate.capabilities import AutoProfiles, Findings
from proxy.translate.profile import AUTO, Profile, build_profile


class Profiles:
    """The profiles of one configuration. The same choice is the same object, which many replicas share."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._auto = AutoProfiles(options)
        self._named: dict[str, Profile] = {}

    def profile_for(self, backend: Backend, findings: Findings | None, learned: Mapping[str, Any]) -> Profile:
        """
        Return the profile of a replica; what was found and learned counts only for `auto`.

        Raises:
            ValueError: the options do not fit it.
        """
        if backend.profile == AUTO:
            return self._auto.profile_for(findings, learned)
        profile = self._named.get(backend.profile)
        if profile is None:
            profile = self._named[backend.profile] = build_profile(backend.profile, self._options)
        return profile
