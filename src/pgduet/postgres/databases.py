"""Database names and their DSNs, which only workers know.

A name is looked up in the environment (`PGDUET_DATABASE_<NAME>`, upper case, `-` to `_`), then in `pgduet.toml`:

    [databases.flights]
    dsn_env = "FLIGHTS_DSN"        # or dsn, or dsn_file
    role = "flights_owner"         # optional: SET ROLE after connecting
"""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from pgduet.errors import UnknownDatabase

PREFIX = "PGDUET_DATABASE_"


@dataclass(frozen=True, slots=True)
class Database:
    """A database that this worker can reach. The DSN never leaves the process, nor does a repr show it."""

    name: str
    dsn: str = field(repr=False)
    role: str | None = None


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
        if dsn := os.environ.get(PREFIX + _variable(name)):
            return Database(name, dsn)
        if section := self._configured().get(name):
            return Database(name, self._dsn(name, section), section.get("role"))
        known = ", ".join(sorted(self.known())) or "none"
        raise UnknownDatabase(
            f'this worker knows no database "{name}" (known: {known})',
            hint=f"Set {PREFIX}{_variable(name)} where the worker runs, or add [databases.{name}] to {self.config}.",
        )

    def known(self) -> set[str]:
        """Name the databases that this worker can reach."""
        from_environment = {key.removeprefix(PREFIX).lower() for key in os.environ if key.startswith(PREFIX)}
        return from_environment | set(self._configured())

    def _configured(self) -> dict[str, dict[str, str]]:
        if not self.config.is_file():
            return {}
        try:
            found = tomllib.loads(self.config.read_text())
        except tomllib.TOMLDecodeError as error:
            raise UnknownDatabase(f"{self.config}: {error}", hint="Correct the file; nothing was changed.") from None
        databases: dict[str, dict[str, str]] = found.get("databases", {})
        return databases

    def _dsn(self, name: str, section: dict[str, str]) -> str:
        if "dsn" in section:
            return section["dsn"]
        if variable := section.get("dsn_env"):
            if dsn := os.environ.get(variable):
                return dsn
            raise UnknownDatabase(f"[databases.{name}]: the variable {variable} is not set")
        if file := section.get("dsn_file"):
            try:
                return Path(file).read_text().strip()
            except OSError as error:
                raise UnknownDatabase(f"[databases.{name}]: cannot read {file}: {error.strerror}") from None
        raise UnknownDatabase(f"[databases.{name}] has no dsn, dsn_env or dsn_file")


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")
