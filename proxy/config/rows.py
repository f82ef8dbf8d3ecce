"""The table that a record of settings makes: each field with the names under which it can be set."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import msgspec

from proxy.config.records import About
from proxy.values import in_words


class Row(NamedTuple):
    """A field of a record of settings, with the names under which it can be set."""

    name: str
    kind: Any
    default: Any
    about: About

    @property
    def flag(self) -> str:
        """The long option. A secret comes by file: every user of a machine can read a process's arguments."""
        words = "option" if self.name == "options" else self.keys[-1]
        return "--" + words.replace("_", "-")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the file."""
        return (self.name, self.name + "_file") if self.about.secret else (self.name,)

    @property
    def variables(self) -> tuple[str, ...]:
        """The names in the environment, one for each key; `_FILE` is the form known from containers."""
        return (self.about.env, self.about.env + "_FILE") if self.about.secret else (self.about.env,)

    @property
    def default_text(self) -> str:
        """The default as a user would write it, "" for an empty one."""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return "" if self.default in ("", {}, (), None) else str(self.default)

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        return self.about.form or in_words(self.kind)


def rows_of(record: type[msgspec.Struct]) -> Mapping[str, Row]:
    """Return the table of a record's fields by name."""
    return MappingProxyType({field.name: _row_of(field) for field in msgspec.structs.fields(record)})


def _row_of(field: msgspec.structs.FieldInfo) -> Row:
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    notes = [note for note in get_args(field.type)[1:] if isinstance(note, About)]
    return Row(
        field.name, field.type, "" if default is msgspec.NODEFAULT else default, notes[0] if notes else About("")
    )
