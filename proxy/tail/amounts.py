"""Times and counts as people read them, in six characters at most."""

from typing import Final

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


def duration(ms: object) -> str:
    """Return `0.4ms`, `180ms`, `1.24s`, `59.9s`, `2m05s` or `3h07m`; `-` is none."""
    if not isinstance(ms, int | float):
        return "-"
    if ms < 9.95:
        return f"{ms:.1f}ms"
    if ms < 999.5:
        return f"{ms:.0f}ms"
    seconds = ms / 1000
    if seconds < 9.995:
        return f"{seconds:.2f}s"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m{whole % _MINUTE_S:02}s"
    return f"{whole // _HOUR_S}h{whole % _HOUR_S // _MINUTE_S:02}m"


def count(number: object) -> str:
    """Return `340`, `1.2k`, `128k` or `1.3M`; `-` is none."""
    if not isinstance(number, int):
        return "-"
    if number < 1000:
        return str(number)
    for factor, unit in ((1_000, "k"), (1_000_000, "M")):
        if number < 9.95 * factor:
            return f"{number / factor:.1f}{unit}"
        if number < 999.5 * factor:
            return f"{number / factor:.0f}{unit}"
    return f"{number / 1_000_000_000:.1f}G"
