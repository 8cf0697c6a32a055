"""Tests of the field trial: its verdicts, table, selection of cases, log file and limit of open files."""

from __future__ import annotations

import logging
import subprocess
import warnings
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from scripts.trials.field.case import Case
from scripts.trials.field.cases import CASES
from scripts.trials.field.startups import limited
from scripts.trials.field.trial import Verdict, judge, of_kind, table, try_all
from scripts.trials.stage import logging_to


def broken(url: str) -> str | None:
    raise ConnectionError(f"{url} is down")


RIGHT = Case("cats", "black", lambda url: None)
WRONG = Case("cats", "white", lambda url: f"{url} finds a [dog]")
BROKEN = Case("dogs", "any", broken)


def test_a_case_that_raises_is_counted_as_wrong() -> None:
    assert judge(BROKEN, "x") == Verdict(BROKEN, "the check failed: ConnectionError: x is down")


def test_the_table_has_a_row_for_each_kind_and_a_sentence_for_each_problem() -> None:
    done: list[float] = []
    verdicts = try_all((RIGHT, WRONG, BROKEN), "x", done.append)
    console = Console(width=100)
    with console.capture() as shown:
        console.print(table(verdicts))
    rows = [row.rstrip().split(maxsplit=3) for row in shown.get().splitlines() if row.strip()]
    assert rows[2:] == [
        ["cats", "2", "1", "white: x finds a [dog]"],
        ["dogs", "1", "0", "any: the check failed: ConnectionError: x is down"],
    ]
    assert done == [1, 2, 3]


def test_kinds_are_selected_by_a_part_of_their_name() -> None:
    assert of_kind((RIGHT, BROKEN), "DOG") == [BROKEN]
    assert of_kind((RIGHT, BROKEN), None) == [RIGHT, BROKEN]


def test_log_lines_and_warnings_are_written_to_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    with warnings.catch_warnings(), logging_to(tmp_path / "field.log"):
        warnings.simplefilter("always")
        logging.warning("a model without shapes")
        warnings.warn("this is deprecated", FutureWarning, stacklevel=1)
    assert logging.getLogger().handlers == before
    text = (tmp_path / "field.log").read_text()
    assert "a model without shapes\n" in text
    assert "FutureWarning: this is deprecated\n" in text
    assert capfd.readouterr().err == ""


def test_case_names_are_unique() -> None:
    assert max(Counter((case.kind, case.member) for case in CASES).values()) == 1


@pytest.mark.parametrize("open_files", [64, 4096])
def test_the_limit_of_open_files_is_a_hard_limit(open_files: int) -> None:
    shown = subprocess.run([*limited(open_files), "sh", "-c", "ulimit -Hn"], capture_output=True, text=True, check=True)
    assert int(shown.stdout) == open_files
