"""Cases from the field, tried one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from scripts.trials.field.case import Case


@dataclass(frozen=True)
class Verdict:
    """What came of a case."""

    case: Case
    problem: str | None  # a sentence; None: it is right

    def __str__(self) -> str:
        return f"{self.case.kind}: {self.case.member}: {self.problem or 'right'}"


def judge(case: Case, url: str) -> Verdict:
    """Try a case. One that fails is as wrong as one whose answer is."""
    try:
        return Verdict(case, case.problem(url))
    except Exception as exc:
        return Verdict(case, f"it could not be tried: {type(exc).__name__}: {exc}")


def try_all(cases: Sequence[Case], url: str, tell: Callable[[float], None]) -> list[Verdict]:
    """Try each case against the server there; ``tell`` hears how many were."""
    verdicts = []
    for number, case in enumerate(cases, 1):
        verdicts.append(judge(case, url))
        tell(number)
    return verdicts


def of_kind(cases: Iterable[Case], part: str | None) -> list[Case]:
    """The cases whose kind contains a text, in any case; all of them without one."""
    return [case for case in cases if part is None or part.lower() in case.kind.lower()]


def table(verdicts: Iterable[Verdict]) -> Table:
    """A row for each kind: how many members are right, and what is wrong with the others."""
    kinds: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault(verdict.case.kind, []).append(verdict)
    rows = Table("kind", "members", "right", "wrong", box=SIMPLE)
    for kind, members in kinds.items():
        wrong = [f"{one.case.member}: {one.problem}" for one in members if one.problem]
        right = str(len(members) - len(wrong))
        rows.add_row(Text(kind), str(len(members)), right, Text("\n".join(wrong)))
    return rows
