"""Tests that the project is written in plain English.

No text or name has a word that only the authors would understand, public docstrings have at least four words, and the
glossary is short.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.texts import Text, all_texts, texts_of

# Words and phrases to which the first version of this project gave a private sense. Each is a regular expression that
# matches whole words and ignores case. The expressions also apply to names, which are split into words at underscores
# and capital letters. The comment beside each expression says what to write instead.
PRIVATE_WORDS = (
    "anew",  # use: again
    "under way",  # use: in flight, running
    "whoever",  # use: the client, the caller
    "who (?:comes|asks|calls|sends|waits|connects|looks)",  # use: the client that ..., a viewer
    "(?:for|of|to|by) who",  # use: for the client that ...
    "(?:is|are|was|were) to (?:be|run)",  # use: should be, must be, should run
    "(?:sees?|saw) to it",  # use: ensures, keeps
    "for good",  # use: permanently
    "for ever",  # use: indefinitely
    "(?:that|which) is (?-i:none)",  # use: that is not one, invalid
    "(?<!there )is no (?:number|text|image|video|model)",  # use: is not a number
    "that there (?:are|were|is not)",  # use: the existing ..., that does not exist
    "what (?:there is|is there|is live|stands)",  # use: the existing ..., live sources, the setting
    "what (?:became|becomes|came|comes) of",  # use: the result of
    "how it went",  # use: the results
    "any more",  # use: no longer
    "so many",  # use: this many
    "heard|hears?",  # use: received, notices
    "vouch(?:es)? for",  # use: trusts
    "outlasts",  # use: lives longer than
    "(?:died|dies) of",  # use: crashed on
    "asks? again|asked again",  # use: retries
    "given up",  # use: superseded, abandoned
    "in words",  # use: as text
    "its like",  # use: others of its kind
    "against the truth|holds? against",  # use: against ground truth, checks against
    "somebody",  # use: a client, a user
    "(?:go|goes|went) on",  # use: continues
    "(?<!time )is up",  # use: is running
    "look period",  # use: poll interval
    "nobody hears",  # use: clients never notice
    "is had",  # use: is available
    "made fit",  # use: prepared
    "wedged",  # use: hung
    "seats?",  # use: slots
    "shredded|shreds",  # use: garbled
    "dribbles?",  # use: too many small chunks
    "falls? silent",  # use: stops sending
    "stands? (?:above|over)",  # use: overrides, extends beyond
    "later and later",  # use: with back-off
    "put aside",  # use: rotated
    "saved up",  # use: credit
    "makes? room",  # use: frees space, is displaced
    "goes round",  # use: bypasses
)
PRIVATE_NAMES = ("told", "heard", "weigh", "whom")  # not allowed in names, except in the names of tests
ALLOWED = {  # files that may quote these words
    "tests/unit/test_english.py",
}

_PRIVATE_WORDS = re.compile(rf"\b(?:{'|'.join(PRIVATE_WORDS)})\b", re.IGNORECASE)
_PRIVATE_NAMES = re.compile(rf"\b(?:{'|'.join(PRIVATE_NAMES)})\b", re.IGNORECASE)
_PARTS_OF_NAME = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_GLOSSARY = re.compile(r"^#+ [^\n]*\bglossary\b[^\n]*\n(.*?)(?=^#|\Z)", re.IGNORECASE | re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"^(?:\|(?!\s*:?-)|[-*] ).*$", re.MULTILINE)


def is_public(docstring: Text) -> bool:
    """Return whether a docstring belongs to a module, class or function of serve_app that other modules may use."""
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
    assert glossary, "serve_app/README.md needs a section named Glossary"
    entries = _ENTRY.findall(glossary[1])
    heading_rows = len(re.findall(r"^\|\s*:?-", glossary[1], re.MULTILINE))
    assert 1 <= len(entries) - heading_rows <= 40


def test_every_kind_of_text_is_found(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(
        '''"""A module."""\n'''
        "# A comment\n# of two lines.\n"
        "WAIT_S = 3  # seconds\n"
        "def run(times):  # noqa\n"
        '    """Run it."""\n'
        '    logger.info("ran %d times" if times else "did not run", times)\n'
        '    raise ValueError(f"times: {times} is negative")\n'
    )
    found = {(text.kind, text.line, text.text) for text in texts_of(code) if text.kind != "name"}
    assert found == {
        ("docstring", 1, "A module."),
        ("comment", 2, "A comment\nof two lines."),
        ("comment", 4, "seconds"),
        ("docstring", 6, "Run it."),
        ("message", 7, "ran %d times"),
        ("message", 7, "did not run"),
        ("message", 8, "times: {…} is negative"),
    }
    document = tmp_path / "a.md"
    document.write_text("# Title\n\nOne [link](b.md).\nTwo. Three.\n\n```\ncode\n```\n| cell |\n|---|\n- item\n")
    sentences = [sentence.text for text in texts_of(document) for sentence in text.sentences()]
    assert sentences == ["Title", "One link.", "Two.", "Three.", "cell", "item"]
