"""The command ``sightline detect``, which sends images to the running server."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.confidence import ConfidenceOption
from serve_app.cli.errors import CommandFailed
from serve_app.cli.server import AsJson, Url, connect

if TYPE_CHECKING:
    from serve_app.client import ApiError, Client, DetectResult
    from serve_app.types import Json


def detect(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.", show_default=False)],
    confidence: ConfidenceOption = None,
    classes: Annotated[
        list[str] | None, typer.Option(metavar="LABELS", help="Comma-separated labels or ids.  [default: all classes]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of `sightline models`.  [default: the server's]")
    ] = None,
    agnostic_nms: Annotated[
        bool | None,
        typer.Option("--agnostic-nms", help="Let boxes of different classes suppress each other.", show_default=False),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Let the server draw what it finds, and save dock.jpg as dock-found.jpg in this folder. Each image is "
            "then sent twice, because a response has either the objects or the drawing.",
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Detect objects in images, and print them. A model that classifies prints the classes of each image.

    With --json, print one line of JSON for each image. The exit status is 1 if the server did not answer for an image.
    """
    failed = False
    params = {"confidence": confidence, "classes": classes or None, "model": model, "agnostic_nms": agnostic_nms}
    with connect(url) as client:
        for image, name in zip(images, annotated_names(images), strict=True):
            if problem := _detect_one(client, image, params, save and save / name, as_json):
                print(f"{image}: {problem}", file=sys.stderr)
                failed = True
    if failed:
        raise typer.Exit(1)


def annotated_names(images: list[Path]) -> list[str]:
    """Return the name of each annotated image.

    All these names differ, even if files in different folders have the same name.
    """
    used: Counter[str] = Counter()
    names = []
    for image in images:
        used[image.stem] += 1
        number = f"-{used[image.stem]}" if used[image.stem] > 1 else ""
        names.append(f"{image.stem}-found{number}.jpg")
    return names


def _detect_one(client: Client, image: Path, params: Json, target: Path | None, as_json: bool) -> str | None:
    """Print what was found in one image, and save the annotated image.

    Return an error message if the file cannot be read, or if the server returns an error.
    """
    from serve_app.client import ApiError

    try:
        data = image.read_bytes()
    except OSError as exc:
        return f"the file cannot be read ({exc.strerror})"
    (answer,) = client.detect_many([data], **params)
    if as_json:
        print(json.dumps({"file": str(image)} | _fields(answer)))
    if isinstance(answer, ApiError):
        return str(answer)
    if not as_json:
        print("\n".join(_lines(image, answer)))
    if target is not None:
        _save(client.annotate(data, **params), target)
        if not as_json:
            print(f"  saved to {target}")
    return None


def _fields(answer: DetectResult | ApiError) -> Json:
    if isinstance(answer, Exception):
        return {"code": answer.code, "detail": answer.detail, "request_id": answer.request_id}
    return answer.model_dump(mode="json")


def _lines(image: Path, answer: DetectResult) -> list[str]:
    """Return a line for the image, and one for each object with its left, top, right and bottom edge, or each class."""
    size = f"{answer.image.width}x{answer.image.height}"
    if answer.classes is not None:
        width = max((len(each.label) for each in answer.classes), default=0)
        lines = [f"{image}: {size}, {answer.timing_ms.total:.0f} ms"]
        return lines + [f"  {each.label:{width}}  {each.confidence:.2f}" for each in answer.classes]
    count = "1 object" if len(answer) == 1 else f"{len(answer)} objects"
    lines = [f"{image}: {count}, {size}, {answer.timing_ms.total:.0f} ms"]
    width = max((len(found.label) for found in answer), default=0)
    for found in answer:
        box = found.bbox
        edges = "".join(f"{edge:7.0f}" for edge in (box.x1, box.y1, box.x2, box.y2))
        lines.append(f"  {found.label:{width}}  {found.confidence:.2f} {edges}")
    return lines


def _save(jpeg: bytes, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(jpeg)
    except OSError as exc:
        raise CommandFailed(f"--save: {target} cannot be written ({exc.strerror}): choose another folder") from exc
