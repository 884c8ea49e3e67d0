"""Database names and their DSNs, which only workers know.

A name is looked up in the environment (`PGDUET_DATABASE_<NAME>`, upper case, `-` to `_`), then in `pgduet.toml`:

    [databases.flights]
    dsn_env = "FLIGHTS_DSN"        # or dsn, or dsn_file
    role = "flights_owner"         # optional: SET ROLE after connecting

    [databases.flights.replicas.paris]   # optional: standbys that a backfill asks how far they are; the rest is as above
    dsn_env = "FLIGHTS_PARIS_DSN"

    [databases.flights.throttle]         # optional: what a backfill does not wait for, as one that is behind on purpose
    ignore_standbys = ["delayed"]
    ignore_slots = ["cdc"]

What is wrong with the configuration is told to people through Temporal, whose history keeps it: so a value is shown only where it
cannot be an address that somebody put in the wrong place.
"""

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgduet.errors import UnknownDatabase

PREFIX = "PGDUET_DATABASE_"
_TEXTS = ("dsn", "dsn_env", "dsn_file", "role")
_IGNORED = ("ignore_standbys", "ignore_slots")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
"""What a replica may be called: its name is shown."""
_CORRECT = "Correct the file; nothing was changed."


@dataclass(frozen=True, slots=True)
class Database:
    """A database that this worker can reach. The DSN never leaves the process, nor does a repr show it."""

    name: str
    dsn: str = field(repr=False)
    role: str | None = None
    replicas: dict[str, str] = field(default_factory=dict, repr=False)
    """DSNs of standbys, by the names that the configuration gives them."""
    ignored: dict[str, frozenset[str]] = field(default_factory=dict)
    """Names of standbys and of slots (`ignore_standbys`, `ignore_slots`) for which nothing waits."""


class Databases:
    """Resolves names when asked, so that a rotated secret is picked up without a restart."""

    def __init__(self, config: Path | None = None) -> None:
        """Take the configuration file; by default `PGDUET_CONFIG`, else `pgduet.toml` in the working directory."""
        self.config = config or Path(os.environ.get("PGDUET_CONFIG", "pgduet.toml"))

    def resolve(self, name: str) -> Database:
        """Find a database by its logical name.

        Raises:
            UnknownDatabase: with the names that are known, or with what is wrong in the configuration.
        """
        section = self._configured().get(name)
        replicas, ignored = self._replicas(name, section or {}), _ignored(section or {})
        if dsn := os.environ.get(PREFIX + _variable(name)):
            return Database(name, dsn, None, replicas, ignored)
        if section:
            return Database(name, self._dsn(name, section), section.get("role"), replicas, ignored)
        known = ", ".join(sorted(self.known())) or "none"
        raise UnknownDatabase(
            f'this worker knows no database "{name}" (known: {known})',
            hint=f"Set {PREFIX}{_variable(name)} where the worker runs, or add [databases.{name}] to {self.config}.",
        )

    def known(self) -> set[str]:
        """Name the databases that this worker can reach."""
        from_environment = {key.removeprefix(PREFIX).lower() for key in os.environ if key.startswith(PREFIX)}
        return from_environment | set(self._configured())

    def _replicas(self, name: str, section: dict[str, Any]) -> dict[str, str]:
        return {
            replica: self._dsn(f"{name}.replicas.{replica}", where)
            for replica, where in section.get("replicas", {}).items()
        }

    def _configured(self) -> dict[str, dict[str, Any]]:
        if not self.config.is_file():
            return {}
        try:
            found = tomllib.loads(_text(self.config))
        except tomllib.TOMLDecodeError as error:
            raise UnknownDatabase(f"{self.config}: {error}", hint=_CORRECT) from None
        sections: Any = found.get("databases", {})
        if not (isinstance(sections, dict) and all(map(_is_section, sections.values()))):
            raise UnknownDatabase(
                f"{self.config}: [databases.<name>] takes texts for {', '.join(_TEXTS)}; each of its `replicas` likewise;"
                f" and `throttle` lists of names for {', '.join(_IGNORED)}",
                hint=_CORRECT,
            )
        return sections

    def _dsn(self, name: str, section: dict[str, Any]) -> str:
        if "dsn" in section:
            return str(section["dsn"])
        if variable := section.get("dsn_env"):
            if dsn := os.environ.get(variable):
                return dsn
            raise UnknownDatabase(f"[databases.{name}]: the variable {_shown(variable, 'dsn_env')} is not set")
        if file := section.get("dsn_file"):
            try:
                return _text(Path(file)).strip()
            except UnknownDatabase as error:
                raise UnknownDatabase(f"[databases.{name}]: {error.message}") from None
        raise UnknownDatabase(f"[databases.{name}] has no dsn, dsn_env or dsn_file")


def _is_section(section: object) -> bool:
    if not (isinstance(section, dict) and all(isinstance(section.get(key, ""), str) for key in _TEXTS)):
        return False
    throttle = section.get("throttle", {})
    if not (isinstance(throttle, dict) and all(map(_are_names, throttle.items()))):
        return False
    replicas = section.get("replicas", {})
    return isinstance(replicas, dict) and all(
        _NAME.fullmatch(name) and isinstance(each, dict) and "replicas" not in each and _is_section(each)
        for name, each in replicas.items()
    )


def _are_names(item: tuple[str, object]) -> bool:
    key, names = item
    return key in _IGNORED and isinstance(names, list) and all(isinstance(name, str) for name in names)


def _ignored(section: dict[str, Any]) -> dict[str, frozenset[str]]:
    return {key: frozenset(names) for key, names in section.get("throttle", {}).items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no path to a text in UTF-8"
        raise UnknownDatabase(f"cannot read {_shown(str(path), 'dsn_file')}: {reason}") from None


def _shown(value: str, key: str) -> str:
    """Show a value, unless it may be an address: those have a `:` or a `=`, which names seldom have."""
    return f"(what {key} says, which is not shown: it may be an address)" if re.search("[:=]", value) else value


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")
