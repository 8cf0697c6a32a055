"""Run the cases of the field trial one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from scripts.trials.field.case import Case


@dataclass(frozen=True)
class Verdict:
    """The outcome of a case."""

    case: Case
    problem: str | None  # a sentence about what is wrong, or None

    def __str__(self) -> str:
        return f"{self.case.kind}: {self.case.member}: {self.problem or 'correct'}"


def judge(case: Case, url: str) -> Verdict:
    """Run a case. An exception counts as a problem, like a wrong answer."""
    try:
        return Verdict(case, case.problem(url))
    except Exception as exc:
        return Verdict(case, f"the check failed: {type(exc).__name__}: {exc}")


def try_all(cases: Sequence[Case], url: str, tell: Callable[[float], None]) -> list[Verdict]:
    """Run each case against the server at ``url``. ``tell`` is called with the number of cases done."""
    verdicts = []
    for number, case in enumerate(cases, 1):
        verdicts.append(judge(case, url))
        tell(number)
    return verdicts


def of_kind(cases: Iterable[Case], part: str | None) -> list[Case]:
    """Return the cases whose kind contains ``part``, or all cases if ``part`` is None.

    Capital and small letters are treated as equal.
    """
    return [case for case in cases if part is None or part.lower() in case.kind.lower()]


def table(verdicts: Iterable[Verdict]) -> Table:
    """Return a table with one row per kind: how many cases are correct, and what is wrong with the others."""
    kinds: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault(verdict.case.kind, []).append(verdict)
    rows = Table("kind", "members", "correct", "wrong", box=SIMPLE)
    for kind, members in kinds.items():
        wrong = [f"{one.case.member}: {one.problem}" for one in members if one.problem]
        correct = str(len(members) - len(wrong))
        rows.add_row(Text(kind), str(len(members)), correct, Text("\n".join(wrong)))
    return rows
