"""Tests that every module, function and file named in a string, a comment or a document exists."""

from __future__ import annotations

import importlib
import json
import re
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from tests.support.paths import ROOT

TOP = ("Dockerfile", "README.md", "SECURITY.md", "pyproject.toml", ".ci/run", ".gitignore", ".dockerignore")
IMPORT = re.compile(r"\bfrom ((?:serve_app|scripts)[\w.]*) import (\w+(?:, \w+)*)")
NAME = re.compile(r"(?<![\w./])(?:serve_app|scripts)(?:\.[A-Za-z_]\w*)+(?::\w+)?")
PROGRAM = re.compile(r"-m[\s\"',]+((?:serve_app|scripts)(?:\.\w+)*)")
FILE = re.compile(r"(?<![\w.-])(?:serve_app|scripts|configs|tests)/[\w./-]*\w")


def texts() -> dict[str, str]:
    """Return the contents of all files that may name modules, functions or files. The keys are the paths.

    Import statements are removed, because Python checks them.
    """
    found = {}
    folders = (path for name in ("serve_app", "scripts", "configs") for path in (ROOT / name).rglob("*"))
    for path in (*(ROOT / name for name in TOP), *folders):
        if path.is_file() and path.suffix != ".pyc":
            # This also reads binary files, but binary files contain no names of modules, functions or files.
            text = path.read_text(errors="ignore")
            if path.suffix == ".py":
                text = re.sub(r"^\s*(?:from|import) .*", "", text, flags=re.MULTILINE)
            # In a regular expression the dots of a name are escaped. In a format string a placeholder may replace a
            # dot.
            found[str(path.relative_to(ROOT))] = re.sub(r"(?<=\w)\{\w+\}(?=\w)", ":", text.replace(r"\.", "."))
    return found


def module(name: str) -> ModuleSpec | None:
    """Return a module's spec, or None if the module does not exist. This imports only the module's parent packages."""
    try:
        return find_spec(name)
    except ModuleNotFoundError:
        return None


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of a module."""
    prefix = name.replace(":", ".")
    attributes: list[str] = []
    while not module(prefix):
        prefix, _, attribute = prefix.rpartition(".")
        attributes.insert(0, attribute)
    there = importlib.import_module(prefix) if attributes else None
    for attribute in attributes:
        if not hasattr(there, attribute):
            return False
        there = getattr(there, attribute)
    return True


def is_program(name: str) -> bool:
    """Return whether ``python -m`` can run the module."""
    spec = module(name)
    if spec and spec.submodule_search_locations:
        return module(f"{name}.__main__") is not None
    return spec is not None and '__name__ == "__main__"' in Path(str(spec.origin)).read_text()


def test_every_dotted_name_exists() -> None:
    missing = {path: [name for name in NAME.findall(text) if not exists(name)] for path, text in texts().items()}
    assert {path: names for path, names in missing.items() if names} == {}


def test_every_import_in_a_string_works() -> None:
    found = [
        (path, f"{name}.{each}")
        for path, text in texts().items()
        for name, names in IMPORT.findall(text)
        for each in names.split(", ")
    ]
    assert ("serve_app/ipc/quarantine.py", "serve_app.ipc.quarantine.serve") in found
    assert [(path, name) for path, name in found if not exists(name)] == []


def test_every_module_run_with_python_m_is_a_program() -> None:
    found = [(path, name) for path, text in texts().items() for name in PROGRAM.findall(text)]
    assert ("serve_app/models/export.py", "serve_app.models.engines.ultralytics") in found
    assert [(path, name) for path, name in found if not is_program(name)] == []


def test_every_named_file_exists() -> None:
    found = [(path, name) for path, text in texts().items() for name in FILE.findall(text)]
    # The wheel has configs/ inside the package.
    places = {name: ROOT / name.replace("serve_app/configs", "configs") for _, name in found}
    assert [(path, name) for path, name in found if not places[name].exists()] == []


def test_every_file_in_the_secrets_baseline_exists() -> None:
    found = json.loads((ROOT / ".secrets.baseline").read_text())["results"]
    assert [path for path in found if not (ROOT / path).exists()] == []
