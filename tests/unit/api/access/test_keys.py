from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from serve_app.api.access.keys import Key, KeyFile, Permission, find_key, make_key, parse_keys
from serve_app.errors import ConfigError
from serve_app.types import Principal

SECRET = "sl_kGq5mVQ3hJ1nZ0rT8wXyB7cD2fE4aL6sU9iO_pM-vRt"


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def entry(key: str = SECRET, **fields: Any) -> dict[str, Any]:
    return {"name": "dock", "sha256": hashed(key), "scopes": ["detect"]} | fields


def save(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(list(entries)))
    return path


def test_a_key_is_found_by_its_hash_and_a_wrong_key_is_not() -> None:
    keys = parse_keys(yaml.safe_dump([entry("other", name="yard"), entry()]))
    assert find_key(keys, SECRET) == keys[1]
    for wrong in ("", SECRET[:-1], SECRET + "x", SECRET.swapcase(), hashed(SECRET), "sl_\xff"):
        assert find_key(keys, wrong) is None


def test_an_empty_key_is_never_valid() -> None:
    """An empty key is refused even if the file has an entry with the hash of an empty string."""
    assert find_key([Key.model_construct(**entry(""))], "") is None


def test_every_hash_is_compared_even_after_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the comparison stopped at a match, the response time would reveal the key's position in the file."""
    compared = []

    def compare(a: str, b: str) -> bool:
        compared.append(a)
        return a == b

    monkeypatch.setattr("hmac.compare_digest", compare)
    keys = parse_keys(yaml.safe_dump([entry(), entry("b"), entry("c")]))
    assert find_key(keys, SECRET) == keys[0]
    assert compared == [key.sha256 for key in keys]


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["detect"], ["detect"]),
        (["streams"], ["streams"]),
        (["jobs"], ["jobs"]),
        (["detect", "streams"], ["detect", "streams"]),
        (["admin"], ["detect", "streams", "jobs", "admin"]),
    ],
)
def test_a_scope_includes_itself_and_admin_includes_all(scopes: list[str], allowed: list[str]) -> None:
    (key,) = parse_keys(yaml.safe_dump([entry(scopes=scopes)]))
    assert [permission for permission in get_args(Permission) if key.allows(permission)] == allowed
    assert key.principal == Principal(key.name, is_admin="admin" in scopes)


def test_a_key_is_valid_until_its_expiry_date() -> None:
    today = datetime.now(UTC).date()
    for days, is_valid in ((-1, False), (0, False), (2, True)):
        keys = parse_keys(yaml.safe_dump([entry(expires=today + timedelta(days=days))]))
        assert (find_key(keys, SECRET) is not None) == is_valid, days


def test_two_keys_of_one_name_are_valid_during_a_rotation() -> None:
    keys = parse_keys(yaml.safe_dump([entry("old", requests_per_s=5), entry("new", requests_per_s=5)]))
    found = [find_key(keys, key) for key in ("old", "new")]
    assert [key and key.name for key in found] == ["dock", "dock"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("", "valid tuple", id="empty"),
        pytest.param("name: dock", "valid tuple", id="not a list"),
        pytest.param(f"- name: [{SECRET}", "line", id="not YAML"),
        pytest.param(f"- {SECRET}", "0:", id="the key itself"),
        pytest.param(yaml.safe_dump([entry(sha256=SECRET)]), "sha256", id="a key in place of its hash"),
        pytest.param(yaml.safe_dump([entry() | {"key": SECRET}]), "a field", id="the key in addition to its hash"),
        pytest.param(yaml.safe_dump([entry() | {SECRET: "dock"}]), "a field", id="the key as a name"),
        pytest.param(yaml.safe_dump([entry(sha256=hashed("a").upper())]), "sha256", id="hash in upper case"),
        pytest.param(yaml.safe_dump([entry("")]), "of an empty string", id="hash of an empty string"),
        pytest.param(yaml.safe_dump([entry(scopes=[])]), "scopes", id="no scopes"),
        pytest.param(yaml.safe_dump([entry(scopes=["all"])]), "scopes", id="unknown scope"),
        pytest.param(yaml.safe_dump([entry(name="a b")]), "name", id="invalid name"),
        pytest.param(yaml.safe_dump([entry(requests_per_s=-1)]), "requests_per_s", id="negative rate"),
        pytest.param(yaml.safe_dump([entry(concurrency=-1)]), "concurrency", id="negative concurrency"),
        pytest.param(yaml.safe_dump([entry(expires="soon")]), "expires", id="invalid expiry date"),
        pytest.param(yaml.safe_dump([entry(), entry(name="yard")]), "twice", id="key listed twice"),
        pytest.param(
            yaml.safe_dump([entry(), entry("b", concurrency=1)]), "limits", id="different limits for one name"
        ),
        pytest.param(yaml.safe_dump([entry(str(i)) for i in range(1001)]), "1000", id="too many keys"),
    ],
)
def test_an_invalid_file_is_refused_without_quoting_its_contents(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(ConfigError, match=named) as refused:
        KeyFile(tmp_path / "keys.yaml")
    assert SECRET not in str(refused.value)
    assert SECRET not in str(refused.value.__cause__)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"#" * (2**20 + 1))
    for name in ("missing", "binary", "large", "."):
        with pytest.raises(ConfigError):
            KeyFile(tmp_path / name)


def test_an_empty_list_admits_no_key(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("[]")
    assert KeyFile(tmp_path / "keys.yaml").keys == ()


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    file = KeyFile(save(tmp_path / "keys.yaml", entry()))
    assert not file.refresh()
    save(tmp_path / "keys.yaml", entry(), entry("b"))
    assert file.refresh()
    assert len(file.keys) == 2
    assert not file.refresh()


def test_a_file_that_is_replaced_through_its_symbolic_link_is_read_again(tmp_path: Path) -> None:
    """Kubernetes links ``keys.yaml`` to ``..data/keys.yaml``, and atomically replaces the symbolic link ``..data``."""
    for version, key in (("..1", "old"), ("..2", "new")):
        (tmp_path / version).mkdir()
        save(tmp_path / version / "keys.yaml", entry(key))
        os.utime(tmp_path / version / "keys.yaml", (1, 1))  # both versions have the same size and modification time
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys.yaml").symlink_to("..data/keys.yaml")
    file = KeyFile(tmp_path / "keys.yaml")
    assert not file.refresh()
    (tmp_path / "swap").symlink_to("..2")
    (tmp_path / "swap").rename(tmp_path / "..data")
    assert file.refresh()
    assert find_key(file.keys, "new")
    assert not find_key(file.keys, "old")


def test_the_previous_keys_stay_while_the_file_is_invalid_or_missing(tmp_path: Path) -> None:
    path = save(tmp_path / "keys.yaml", entry())
    file = KeyFile(path)
    path.write_text("- nonsense")
    for _ in range(2):  # every refresh raises the error
        with pytest.raises(ConfigError):
            file.refresh()
    path.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        file.refresh()
    assert find_key(file.keys, SECRET)
    save(path, entry("b"))
    assert file.refresh()
    assert not find_key(file.keys, SECRET)


def test_a_new_key_is_random_and_its_entry_fits_the_file() -> None:
    made = [make_key("dock", ["detect", "streams"]) for _ in range(100)]
    keys = parse_keys(yaml.safe_dump([entry for _, entry in made]))
    assert all(find_key(keys, key) == keys[number] for number, (key, _) in enumerate(made))
    assert {(key[:3], len(key)) for key, _ in made} == {("sl_", 46)}  # the prefix, then 32 bytes in base64


def test_the_command_prints_the_key_to_stdout_and_its_entry_to_stderr() -> None:
    command = [sys.executable, "-m", "serve_app.cli", "keys", "new", "dock", "detect"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (key,) = done.stdout.splitlines()
    (found,) = parse_keys(done.stderr)
    assert find_key([found], key)
    assert key not in done.stderr
    refused = subprocess.run([*command, "unicorn"], capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
