"""The option ``--confidence`` of several commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def _parse(text: str) -> Any:
    """Return a number, or the numbers by class. Raise BadParameter if the text is neither."""
    from pydantic import TypeAdapter, ValidationError

    from serve_app.thresholds import Confidence

    try:
        return TypeAdapter(Confidence).validate_python(text)
    except ValidationError as exc:
        raise typer.BadParameter(exc.errors()[0]["msg"]) from None


ConfidenceOption = Annotated[
    Any,
    typer.Option(
        "--confidence",
        metavar="0..1",
        parser=_parse,
        help="The minimum confidence of a detection, or one for each class: person:0.6,*:0.4.  [default: the server's]",
        show_default=False,
    ),
]
