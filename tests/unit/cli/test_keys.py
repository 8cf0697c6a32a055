"""Tests of ``sightline keys new --file``, which adds a key's entry to the API-key file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.api.access.keys import find_key, make_key, parse_keys
from serve_app.cli.errors import CommandFailed
from serve_app.cli.key_file import add_entry
from tests.support.command import sightline


def add(file: Path, name: str = "dock") -> str:
    """Add a key to the file, and return the key."""
    key, entry = make_key(name, ["detect"])
    add_entry(file, entry)
    return key


def test_only_the_key_is_printed_and_its_entry_is_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    done = sightline("keys", "new", "dock", "detect", "streams", "--file", file)
    assert (done.returncode, done.stderr) == (0, "")
    (key,) = parse_keys(file.read_text())
    assert find_key([key], done.stdout.removesuffix("\n")) is key
    assert (key.name, key.scopes) == ("dock", ("detect", "streams"))
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_wrong_command_leaves_the_file_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    add(file)
    before = file.read_text()
    assert sightline("keys", "new", "gate", "detekt", "--file", file).returncode == 2
    taken = sightline("keys", "new", "dock", "detect", "--file", file)
    assert (taken.returncode, taken.stdout) == (1, "")
    assert f"{file} has a key named dock already: choose another name" in taken.stderr
    assert file.read_text() == before


@pytest.mark.parametrize(
    "text",
    [
        "- {name: gate, sha256: HASH, scopes: [admin]}  # the gate",
        "# our keys\n\n  - name: gate   # the gate\n    sha256: HASH\n    scopes:\n      - admin\n\n",
        "- name: gate\n  sha256: HASH\n  scopes:\n  - admin\n",
    ],
    ids=["without a newline at the end", "indented", "as the command writes it"],
)
def test_other_entries_and_comments_stay(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.yaml"
    text = text.replace("HASH", "ab" * 32)
    file.write_text(text)
    file.chmod(0o640)
    add(file)
    assert file.read_text().startswith(text.rstrip("\n"))
    assert [key.name for key in parse_keys(file.read_text())] == ["gate", "dock"]
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["", "[]", "# no keys yet\n[]\n", "# no keys yet\n"])
def test_an_empty_list_gets_its_first_entry(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    add(file)
    assert [key.name for key in parse_keys(file.read_text())] == ["dock"]
    assert ("# no keys yet" in file.read_text()) is ("#" in text)


@pytest.mark.parametrize(
    "text", ["- name: [", "[{name: gate, sha256: HASH, scopes: [admin]}]", "dock: sl_secret", "a: sl_secret: [}"]
)
def test_a_file_that_would_become_invalid_is_not_changed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.yaml"
    text = text.replace("HASH", "ab" * 32)
    file.write_text(text)
    with pytest.raises(CommandFailed, match="correct the file") as raised:
        add(file)
    assert "sl_secret" not in str(raised.value)
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_still_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to("keys.yaml")
    add(tmp_path / "link.yaml")
    assert (tmp_path / "link.yaml").is_symlink()
    assert parse_keys((tmp_path / "keys.yaml").read_text())[0].name == "dock"


def test_a_file_that_cannot_be_changed_is_reported_in_one_sentence(tmp_path: Path) -> None:
    done = sightline("keys", "new", "dock", "detect", "--file", tmp_path / "none/keys.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"--file: {tmp_path}/none/keys.yaml cannot be changed (No such file or directory): choose another file\n"
    )


def test_commands_that_run_at_the_same_time_lose_no_entry(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    names = [f"client-{number}" for number in range(20)]
    add_all = (
        "import sys; from pathlib import Path; from tests.unit.cli.test_keys import add\n"
        "for name in sys.argv[2:]: add(Path(sys.argv[1]), name)"
    )
    running = [subprocess.Popen([sys.executable, "-c", add_all, file, *names[half::2]]) for half in (0, 1)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert sorted(key.name for key in parse_keys(file.read_text())) == sorted(names)
