"""Where a worker finds a database's address, and that what it says about it never shows the address."""

from pathlib import Path

import pytest

from pgduet.errors import UnknownDatabase
from pgduet.postgres.databases import Databases

SECRET = "Hx9vQ2Lw"  # noqa: S105  a password of nothing
DSN = f"postgresql://worker:{SECRET}@db.example.com/shop"
KEYS = f"host=db.example.com password={SECRET}"


def configured(tmp_path: Path, section: str) -> Databases:
    path = tmp_path / "pgduet.toml"
    path.write_text(f"[databases.shop]\n{section}\n")
    return Databases(path)


def test_a_file_is_read_each_time_so_that_a_new_password_needs_no_restart(tmp_path: Path) -> None:
    address = tmp_path / "shop.dsn"
    databases = configured(tmp_path, f'dsn_file = "{address}"')
    address.write_text("postgresql://first\n")
    assert databases.resolve("shop").dsn == "postgresql://first"
    address.write_text("postgresql://second\n")
    assert databases.resolve("shop").dsn == "postgresql://second"


def test_the_place_of_an_address_is_named_when_it_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownDatabase, match=r"cannot read /nowhere/shop\.dsn: No such file"):
        configured(tmp_path, 'dsn_file = "/nowhere/shop.dsn"').resolve("shop")
    with pytest.raises(UnknownDatabase, match="the variable SHOP_DSN is not set"):
        configured(tmp_path, 'dsn_env = "SHOP_DSN"').resolve("shop")


@pytest.mark.parametrize("address", [DSN, KEYS])
@pytest.mark.parametrize("key", ["dsn_file", "dsn_env"])
def test_an_address_that_stands_where_its_place_belongs_is_not_shown(tmp_path: Path, key: str, address: str) -> None:
    with pytest.raises(UnknownDatabase) as found:
        configured(tmp_path, f'{key} = "{address}"').resolve("shop")
    assert SECRET not in str(found.value.facts()) + str(found.value)
    assert key in found.value.message


@pytest.mark.parametrize(
    "section", [f'dsn = "{DSN}', f"dsn = {DSN}", f'dsn_files = "{DSN}"', f'"{DSN}"', f'dsn = "{DSN}\\q"']
)
def test_a_broken_file_is_told_without_what_is_in_it(tmp_path: Path, section: str) -> None:
    with pytest.raises(UnknownDatabase) as found:
        configured(tmp_path, section).resolve("shop")
    assert SECRET not in str(found.value.facts()) + str(found.value)


@pytest.mark.parametrize(
    "text", [f'databases.shop = "{DSN}"', f'databases = "{DSN}"', f"[databases.shop]\ndsn = ['{DSN}']"]
)
def test_an_address_without_a_key_is_told_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pgduet.toml"
    path.write_text(text)
    with pytest.raises(UnknownDatabase) as found:
        Databases(path).resolve("shop")
    assert SECRET not in str(found.value.facts()) + str(found.value)


def test_what_is_no_text_is_told_without_what_it_is(tmp_path: Path) -> None:
    address = tmp_path / "shop.dsn"
    address.write_bytes(SECRET.encode() + b"\xff")
    with pytest.raises(UnknownDatabase, match="no path to a text in UTF-8") as found:
        configured(tmp_path, f'dsn_file = "{address}"').resolve("shop")
    assert SECRET not in str(found.value)


def test_standbys_are_found_by_the_same_keys_wherever_the_primary_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standbys = f'[databases.shop.replicas.paris]\ndsn = "{DSN}"\n[databases.shop.replicas.rome]\ndsn_env = "ROME_DSN"'
    monkeypatch.setenv("ROME_DSN", "postgresql://rome")
    found = configured(tmp_path, f'dsn = "postgresql://primary"\n{standbys}').resolve("shop")
    assert found.replicas == {"paris": DSN, "rome": "postgresql://rome"}
    assert SECRET not in repr(found)
    monkeypatch.setenv("PGDUET_DATABASE_SHOP", "postgresql://elsewhere")
    again = configured(tmp_path, standbys).resolve("shop")
    assert (again.dsn, again.replicas) == ("postgresql://elsewhere", found.replicas)


def test_what_is_behind_on_purpose_is_named(tmp_path: Path) -> None:
    throttle = 'dsn = "x"\n[databases.shop.throttle]\nignore_standbys = ["delayed"]\nignore_slots = ["cdc"]'
    found = configured(tmp_path, throttle).resolve("shop").ignored
    assert found == {"ignore_standbys": frozenset({"delayed"}), "ignore_slots": frozenset({"cdc"})}


@pytest.mark.parametrize(
    "section",
    [
        f'dsn = "x"\nreplicas = ["{DSN}"]',
        f'dsn = "x"\n[databases.shop.replicas]\nparis = "{DSN}"',
        f'dsn = "x"\n[databases.shop.replicas."{DSN}"]\ndsn = "{DSN}"',
        f'dsn = "x"\n[databases.shop.throttle]\nignore = ["{DSN}"]',
        f'dsn = "x"\n[databases.shop.throttle]\nignore_slots = "{DSN}"',
    ],
)
def test_standbys_in_another_form_are_refused_without_showing_an_address(tmp_path: Path, section: str) -> None:
    with pytest.raises(UnknownDatabase, match="ignore_standbys") as found:
        configured(tmp_path, section).resolve("shop")
    assert SECRET not in str(found.value.facts()) + str(found.value)


def test_a_description_of_a_database_does_not_show_its_address(tmp_path: Path) -> None:
    assert SECRET not in repr(configured(tmp_path, f'dsn = "{DSN}"').resolve("shop"))
