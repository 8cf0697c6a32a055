"""The project is written in plain English: no private words, whole docstrings, a short glossary."""

from __future__ import annotations

import re

from tests.support.paths import ROOT
from tests.support.texts import Text, all_texts

# The first version of this project had a language of its own. These words and phrases of it have no honest use here.
# Each is matched as whole words, in any case and in names, where an underscore or a capital letter separates words.
PRIVATE_WORDS = (
    "anew",  # again
    "under way",  # in flight, running
    "whoever",  # the client, the caller
    "who comes",  # the client that arrives
    "who asks",  # the client, the caller
    "who calls",  # the caller
    "who sends",  # the sender, the client
    "who waits",  # the client that waits
    "who connects",  # the client that connects
    "who looks",  # a viewer
    "for who",  # for a client that
    "of who",  # of the client that
    "to who",  # to the client that
    "by who",  # by the client that
    "is to be",  # should be, must be
    "are to be",  # should be, must be
    "was to be",  # should have been
    "is to run",  # should run
    "sees to it",  # ensures, keeps
    "see to it",  # ensure
    "for good",  # permanently
    "for ever",  # indefinitely
    "that is none",  # that is not one, invalid
    "which is none",  # which is not one
    "any more",  # no longer
    "hear of",  # notice, learn
    "hears of",  # notices, learns
    "heard",  # received
    "outlasts",  # lives longer than
    "died of",  # crashed on
    "dies of",  # crashes on
    "ask again",  # retry
    "asks again",  # retries
    "asked again",  # retried
    "given up",  # superseded, abandoned
    "in words",  # as text
    "its like",  # others of its kind
    "against the truth",  # against ground truth
    "what stands",  # the text, the setting
    "what is live",  # live sources
    "what is there",  # the existing ...
    "what there is",  # the existing ...
    "that there are",  # the existing ...
    "somebody",  # a client, a person
    "goes on",  # continues
    "went on",  # continued
    "is up",  # is running
    "holds against",  # checks against
    "look period",  # poll interval
)
PRIVATE_NAMES = ("told", "heard", "weigh", "whom")  # in names of code other than those of tests
ALLOWED = {  # texts that quote something, and so may have such a word
    "tests/unit/test_english.py",
}

_PRIVATE_WORDS = re.compile(rf"\b(?:{'|'.join(PRIVATE_WORDS)})\b", re.IGNORECASE)
_PRIVATE_NAMES = re.compile(rf"\b(?:{'|'.join(PRIVATE_NAMES)})\b", re.IGNORECASE)
_PARTS_OF_NAME = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_GLOSSARY = re.compile(r"^#+ .*\bglossary\b.*\n(.*?)(?=^#|\Z)", re.IGNORECASE | re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"^(?:\|(?!\s*:?-)|[-*] ).*$", re.MULTILINE)


def is_public(docstring: Text) -> bool:
    """Tell whether a docstring describes something of serve_app that other code may use."""
    owner = re.match(r"(?:async )?(?:def|class) (\w+)", docstring.context)
    return docstring.file.startswith("serve_app/") and not (owner and owner[1].startswith("_"))


def test_no_text_has_a_private_word() -> None:
    found = [
        f"{text.file}:{text.line}: {word!r} in {text.text!r:.120}"
        for text in all_texts()
        if text.kind != "name" and text.file not in ALLOWED
        for word in _PRIVATE_WORDS.findall(" ".join(text.text.split()))
    ]
    assert not found, "\n".join(["", *found])


def test_no_name_has_a_private_word() -> None:
    found = []
    for text in all_texts():
        if text.kind == "name" and text.file not in ALLOWED:
            words = " ".join(_PARTS_OF_NAME.findall(text.text))
            is_test = text.text.startswith("test_")
            if _PRIVATE_WORDS.search(words) or (not is_test and _PRIVATE_NAMES.search(words)):
                found.append(f"{text.file}:{text.line}: {text.text}")
    assert not found, "\n".join(["", *found])


def test_public_docstrings_have_at_least_four_words() -> None:
    found = [
        f"{text.file}:{text.line}: {text.text!r}"
        for text in all_texts()
        if text.kind == "docstring" and is_public(text) and len(re.findall(r"[A-Za-z][\w'-]*", text.text)) < 4
    ]
    assert not found, "\n".join(["", *found])


def test_the_glossary_has_at_most_forty_entries() -> None:
    glossary = _GLOSSARY.search((ROOT / "serve_app" / "README.md").read_text())
    assert glossary, "serve_app/README.md has no section named Glossary"
    entries = _ENTRY.findall(glossary[1])
    heading_rows = len(re.findall(r"^\|\s*:?-", glossary[1], re.MULTILINE))
    assert 1 <= len(entries) - heading_rows <= 40
