from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from serve_app import errors
from serve_app.errors import Limit, Overloaded, RateLimited, ServeAppError, TooLarge
from serve_app.schemas.errors import ErrorResponse

ROOT = Path(errors.__file__).parent
LIMITS = set(get_args(Limit)) - {""}


def tree(cls: type[ServeAppError]) -> list[type[ServeAppError]]:
    return [cls, *(child for sub in cls.__subclasses__() for child in tree(sub))]


@pytest.mark.parametrize("cls", tree(ServeAppError))
def test_an_error_survives_pickling(cls: type[ServeAppError]) -> None:
    error = pickle.loads(pickle.dumps(cls("the reason")))
    assert type(error) is cls
    assert error.detail == "the reason"
    assert error.limit == ""


@pytest.mark.parametrize("cls", tree(ServeAppError))
def test_the_name_of_a_limit_survives_pickling(cls: type[ServeAppError]) -> None:
    error = pickle.loads(pickle.dumps(cls("the reason", limit="preprocessor.slots")))
    assert (type(error), error.detail, error.limit) == (cls, "the reason", "preprocessor.slots")


def test_the_retry_time_of_a_rate_limit_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(RateLimited("the reason", 7, limit="access.requests_per_s")))
    assert (error.detail, error.retry_after_s, error.limit) == ("the reason", 7, "access.requests_per_s")


def test_the_json_of_an_error_has_a_limit_only_if_one_is_the_reason() -> None:
    plain = ErrorResponse.from_error(ServeAppError("a bug"), "id")
    assert plain.model_dump() == {"code": "internal", "detail": "a bug", "request_id": "id"}
    refusal = ErrorResponse.from_error(Overloaded("full", limit="followers"), "id")
    assert refusal.model_dump() == {"code": "overloaded", "detail": "full", "request_id": "id", "limit": "followers"}
    for shown in (plain, refusal):
        assert ErrorResponse.model_validate_json(shown.model_dump_json()) == shown


@pytest.mark.parametrize("cls", tree(ServeAppError))
def test_the_tree_in_the_docstring_names_every_error(cls: type[ServeAppError]) -> None:
    assert f" {cls.__name__} " in errors.__doc__


@pytest.mark.parametrize("cls", tree(ServeAppError))
def test_only_retryable_errors_have_a_retry_time(cls: type[ServeAppError]) -> None:
    assert (cls.retry_after_s is not None) == (cls.status_code in {429, 503})


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path in ROOT.rglob("*.py"):
        if path != ROOT / "errors.py":
            yield from ((path, node) for node in ast.walk(ast.parse(path.read_text())))


def test_every_refusal_for_a_limit_names_it() -> None:
    kinds = {cls.__name__ for cls in (Overloaded, RateLimited, TooLarge)}
    made = [
        (f"{path.relative_to(ROOT)}:{node.lineno}", {keyword.arg for keyword in node.keywords})
        for path, node in nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds
    ]
    assert [place for place, keywords in made if "limit" not in keywords] == []
    assert len(made) >= 15


def test_every_limit_is_named_by_a_refusal() -> None:
    """This test finds unused limits. Mypy finds refusals that name an unknown limit."""
    given = {
        argument.value
        for _, node in nodes()
        if isinstance(node, ast.Call)
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]
        if isinstance(argument, ast.Constant)
    }
    assert LIMITS - given == set()
