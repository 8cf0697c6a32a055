"""The sentences with which a checkpoint is refused."""

from __future__ import annotations

from serve_app.errors import ModelError

REFUSED = 3  # the exit status of ``reader`` after it has printed why it refuses a checkpoint


class Unaccepted(Exception):
    """A checkpoint has a property that we do not accept. Its text continues a sentence whose subject is the file."""


def printable(text: str) -> str:
    """Return a text of the file without characters that would start a new line or control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def untrusted(file: str, problem: str, sha256: str) -> ModelError:
    """Return the error for a checkpoint that can only be loaded as a pickle, by an operator who trusts it."""
    return ModelError(
        f"model.weights: {printable(file)} {printable(problem)}: if you trust the file, which can then run any code, "
        f"set model.weights_sha256 (SERVE_APP_WEIGHTS_SHA256) to {sha256}"
    )


def damaged(file: str) -> ModelError:
    """Return the error for a file that is not a complete checkpoint."""
    return ModelError(
        f"model.weights: {printable(file)} is damaged, or is not a checkpoint of Ultralytics: copy it again, or export "
        "it as ONNX with its own framework"
    )
