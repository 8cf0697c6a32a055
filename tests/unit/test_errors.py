from __future__ import annotations

import pickle

import pytest

from serve_app import errors
from serve_app.errors import ServeAppError


def tree(cls: type[ServeAppError]) -> list[type[ServeAppError]]:
    return [cls, *(child for sub in cls.__subclasses__() for child in tree(sub))]


@pytest.mark.parametrize("cls", tree(ServeAppError))
def test_an_error_survives_pickling(cls: type[ServeAppError]) -> None:
    error = pickle.loads(pickle.dumps(cls("the reason")))
    assert type(error) is cls
    assert error.detail == "the reason"


@pytest.mark.parametrize("cls", tree(ServeAppError))
def test_the_tree_in_the_docstring_names_every_error(cls: type[ServeAppError]) -> None:
    assert f" {cls.__name__} " in errors.__doc__


@pytest.mark.parametrize("cls", tree(ServeAppError))
def test_who_may_come_again_is_told_when(cls: type[ServeAppError]) -> None:
    assert (cls.retry_after_s is not None) == (cls.status_code in {429, 503})
