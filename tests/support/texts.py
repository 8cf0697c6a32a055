"""Collect every text of the repository that a person reads.

python -m tests.support.texts --count 300 --seed 1      print 300 random sentences, for a reader to judge

For each sentence, one line has the file, the line number, the kind of text and the code beside it. The next line has
the sentence. A placeholder of an f-string is printed as ``{…}``.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from pathlib import Path

from tests.support.paths import ROOT

FOLDERS = ("serve_app", "scripts", "configs", "tests")
TOP_FILES = ("README.md", "SECURITY.md", "Dockerfile", "pyproject.toml", ".ci/run")
READ_KINDS = ("docstring", "comment", "message", "document")  # the kinds from which sentences are drawn

_HASH_COMMENT_SUFFIXES = {".yaml", ".toml", ".env", ".txt", ""}  # files whose comments begin with a hash sign
_LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
_LOGGERS = {"log", "logger", "_log", "_logger", "logging"}
_MESSAGE_KEYWORDS = {"help", "description", "summary", "detail", "epilog", "message", "reason"}
_MESSAGE_FUNCTIONS = {"print", "exit", "fail", "skip", "warn", "Metric"}
_NODES = (  # the kinds of syntax node that can contain texts or names
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.arg, ast.Name, ast.Attribute),
    *(ast.Constant, ast.JoinedStr, ast.Call, ast.Assert, ast.Raise, ast.AugAssign),
)
_DIRECTIVE = re.compile(r"^(?:!|noqa|type: ignore|fmt: |pragma|ruff: |mypy: |shellcheck |syntax=)")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)[\"')`]*\s+(?=[\"'(`*]*[A-Z0-9])")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
_MIN_WORDS = 3  # sentences with fewer words are not drawn, because they are only labels


@dataclass(frozen=True)
class Text:
    """A docstring, a block of comments, a string, a name, or a paragraph of a document."""

    file: str  # path relative to the repository
    line: int
    kind: str  # one of READ_KINDS, "string" for any other string, or "name" for a name that the code defines
    text: str
    context: str = ""  # the code that the text describes

    def sentences(self) -> Iterator[Text]:
        """Yield the sentences of the text, each on one line. A list item or an indented line starts a new sentence."""
        offset = 0
        for block in re.split(r"(\n\s*\n|\n(?=\s+\S)|\n(?=[-*+] ))", self.text):
            line = self.line + offset
            offset += block.count("\n")
            for sentence in _SENTENCE_END.split(re.sub(r"\s*\n\s*", " ", block.strip())):
                if sentence:
                    yield replace(self, text=sentence, line=line)


@cache
def all_texts() -> tuple[Text, ...]:
    """Return every text in ``FOLDERS`` and ``TOP_FILES``, sorted by path."""
    return tuple(text for path in source_files() for text in texts_of(path))


@cache
def source_files() -> tuple[Path, ...]:
    """Return the files that contain texts, sorted by path."""
    below = (path for name in FOLDERS for path in (ROOT / name).rglob("*"))
    files = [path for path in (*below, *(ROOT / name for name in TOP_FILES)) if path.is_file()]
    known = {".py", ".md", *_HASH_COMMENT_SUFFIXES}
    return tuple(sorted(path for path in files if path.suffix in known and "__pycache__" not in path.parts))


def texts_of(path: Path) -> list[Text]:
    """Return the texts of one file. Raise SyntaxError if a Python file cannot be parsed."""
    source = path.read_text()
    file = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    if path.suffix == ".md":
        return list(_paragraphs(file, source))
    if path.suffix == ".py" or re.match(r"#!.*python", source):
        found = [*_strings(file, source), *_blocks(file, source, _python_comments(source))]
    else:
        found = list(_blocks(file, source, _hash_comments(source)))
    return sorted(found, key=lambda text: text.line)


def _strings(file: str, source: str) -> Iterator[Text]:
    """Yield the docstrings and other strings of a Python file, and the names that it defines."""
    lines = source.splitlines()
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, _NODES)]
    docstrings: dict[int, ast.AST] = {}
    messages: set[int] = set()
    in_f_strings: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings[id(first.value)] = node
        elif isinstance(node, ast.JoinedStr):
            in_f_strings |= {id(part) for part in node.values}
        messages |= {id(part) for argument in _message_arguments(node) for part in _parts(argument)}
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield Text(file, node.lineno, "name", name)
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield Text(file, node.lineno, "name", name)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in in_f_strings:
            if owner := docstrings.get(id(node)):
                line = getattr(owner, "lineno", 0)
                context = lines[line - 1].strip() if line else ""
                yield Text(file, node.lineno, "docstring", _dedent(node.value), context)
            else:
                yield Text(file, node.lineno, "message" if id(node) in messages else "string", node.value)
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in node.values)
            yield Text(file, node.lineno, "message" if id(node) in messages else "string", text)


def _message_arguments(node: ast.AST) -> Iterator[ast.expr]:
    """Yield those arguments of a node that become messages, for example in errors, log calls, prints and asserts."""
    if isinstance(node, ast.Assert) and node.msg:
        yield node.msg
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield from node.exc.args
    elif isinstance(node, ast.AugAssign) and _name(node.target) == "problems" and isinstance(node.value, ast.List):
        yield from node.value.elts
    elif isinstance(node, ast.Call):
        yield from (keyword.value for keyword in node.keywords if keyword.arg in _MESSAGE_KEYWORDS)
        name = _name(node.func)
        owner = _name(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        is_log = name in _LOG_METHODS and owner in _LOGGERS
        is_problem = name == "append" and owner == "problems"  # trials and the soak test report problems in this way
        if is_log or is_problem or name in _MESSAGE_FUNCTIONS or name in error_classes():
            yield from node.args


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name, or an empty string for any other expression."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _parts(argument: ast.expr) -> Iterator[ast.AST]:
    """Yield the strings in an argument. Look into conditions and concatenations, but not into calls."""
    if isinstance(argument, ast.IfExp):
        yield from (*_parts(argument.body), *_parts(argument.orelse))
    elif isinstance(argument, ast.BinOp):
        yield from (*_parts(argument.left), *_parts(argument.right))
    elif isinstance(argument, ast.BoolOp):
        yield from (part for value in argument.values for part in _parts(value))
    elif isinstance(argument, ast.Constant | ast.JoinedStr):
        yield argument


@cache
def error_classes() -> frozenset[str]:
    """Return the names of all exceptions that the code raises, and of all exceptions that it defines."""
    found = set()
    for path in source_files():
        if path.suffix == ".py":
            source = path.read_text()
            found |= set(re.findall(r"^\s*raise (?:\w+\.)*([A-Z]\w+)\(", source, re.MULTILINE))
            found |= set(re.findall(r"^class (\w+)\((?:\w+\.)*\w*(?:Error|Exception)\)", source, re.MULTILINE))
    return frozenset(found)


def _dedent(docstring: str) -> str:
    """Remove the indentation of the code from a docstring, and keep the line breaks."""
    first, *rest = docstring.split("\n")
    indents = [len(line) - len(line.lstrip()) for line in rest if line.strip()]
    return "\n".join([first, *(line[min(indents, default=0) :].rstrip() for line in rest)])


def _python_comments(source: str) -> Iterator[tuple[int, int, str]]:
    """Yield the line, column and text of each comment in a Python file."""
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.start[1], token.string[1:].strip()


def _hash_comments(source: str) -> Iterator[tuple[int, int, str]]:
    """Yield the line, column and text of each comment in a file whose comments begin with a hash sign."""
    for number, line in enumerate(source.splitlines(), 1):
        if match := re.search(r"(?:^|(?<=\s))#\s+(.*)", line):
            yield number, match.start(), match[1].strip()


def _blocks(file: str, source: str, comments: Iterator[tuple[int, int, str]]) -> Iterator[Text]:
    """Yield the comments as texts. Comments in the same column of consecutive lines are one text."""
    lines = source.splitlines()
    block: Text | None = None
    end = (0, 0)
    for line, column, comment in comments:
        if _DIRECTIVE.match(comment):
            continue
        context = _code_beside(lines, line, column)
        if block and (line, column) == (end[0] + 1, end[1]) and not context:
            block = replace(block, text=f"{block.text}\n{comment}")
        else:
            if block:
                yield block
            block = Text(file, line, "comment", comment, context)
        end = line, column
    if block:
        yield block


def _code_beside(lines: list[str], line: int, column: int) -> str:
    """Return the code beside a comment.

    If the code is only a closing bracket, return the first line of the statement that ends there.
    """
    code = lines[line - 1][:column].strip()
    if re.fullmatch(r"[)\]},]+", code):
        indent = lines[line - 1].index(code[0])
        begins = (other for other in reversed(lines[: line - 1]) if re.match(rf" {{{indent}}}[^\s)\]}}]", other))
        return next(begins, code).strip()
    return code


def _paragraphs(file: str, source: str) -> Iterator[Text]:
    """Yield the paragraphs, headings, list items and table cells of a Markdown document, but not its code."""
    block: list[str] = []
    begin = 0
    is_code = False
    for number, line in enumerate([*source.splitlines(), ""], 1):
        is_fence = line.lstrip().startswith("```")
        is_code ^= is_fence
        is_row = line.lstrip().startswith("|")
        stands_alone = is_fence or is_code or is_row or not line.strip() or line.startswith("#")
        if block and (stands_alone or _LIST_ITEM.match(line)):
            yield Text(file, begin, "document", _unmarked(" ".join(block)))
            block = []
        if is_row and not is_code:
            cells = (_unmarked(cell) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")))
            yield from (Text(file, number, "document", cell) for cell in cells if re.search(r"\w", cell))
        elif line.startswith("#") and not is_code:
            yield Text(file, number, "document", _unmarked(line.lstrip("# ")))
        elif not stands_alone:
            begin = begin if block else number
            block.append(_LIST_ITEM.sub("", line, count=1) if not block else line)


def _unmarked(text: str) -> str:
    """Remove images, comments and the addresses of links from Markdown."""
    text = re.sub(r"<!--.*?-->|!\[[^\]]*\]\([^)]*\)", "", text)
    return " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).split())


def sample(count: int, seed: int) -> list[Text]:
    """Draw ``count`` random sentences, and return them sorted by file and line."""
    sentences = [
        sentence
        for text in all_texts()
        if text.kind in READ_KINDS
        for sentence in text.sentences()
        if len(re.findall(r"[A-Za-z]{2,}", sentence.text)) >= _MIN_WORDS
    ]
    chosen = random.Random(seed).sample(sentences, min(count, len(sentences)))
    return sorted(chosen, key=lambda sentence: (sentence.file, sentence.line))


def main() -> None:
    """Print a random sample of sentences."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.texts", description=main.__doc__)
    parser.add_argument("--count", type=int, default=300, help="number of sentences to print (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed, which makes the sample reproducible")
    options = parser.parse_args()
    for number, text in enumerate(sample(options.count, options.seed), 1):
        beside = f", at: {text.context}" if text.context else ""
        print(f"[{number}] {text.file}:{text.line} ({text.kind}{beside})\n    {text.text}\n")


if __name__ == "__main__":
    main()
