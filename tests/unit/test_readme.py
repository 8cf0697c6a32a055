"""Tests that the tables, examples, paths and links in the documents agree with the code."""

from __future__ import annotations

import json
import re
from typing import get_args

import pytest
from pydantic import BaseModel

from serve_app import __version__, config, errors
from serve_app.api import bodies, events, job_submission, previews, session, url_fetcher
from serve_app.api.access import credentials, middleware
from serve_app.api.access.keys import parse_keys
from serve_app.api.parameters import ALIASES
from serve_app.deployments import preprocessor, stubs
from serve_app.jobs.sources import ChangedItem, MissingItem, UnreadableItem
from serve_app.schemas import jobs as job_schemas
from serve_app.schemas.detect import DetectResponse
from serve_app.schemas.jobs import Format, JobState
from serve_app.schemas.streams import EventType, State
from serve_app.streams import source_frames
from serve_app.telemetry import metrics as telemetry
from serve_app.telemetry.metrics import Metric
from tests.support.paths import ROOT

DOCUMENTS = {
    path: (ROOT / path).read_text()
    for path in (
        "README.md",
        "SECURITY.md",
        "configs/README.md",
        "scripts/README.md",
        "scripts/codes/README.md",
        "scripts/trials/README.md",
        "serve_app/README.md",
        "serve_app/api/README.md",
        "serve_app/api/compat/README.md",
        "serve_app/collection/README.md",
        "serve_app/console/README.md",
        "serve_app/drift/README.md",
        "serve_app/jobs/README.md",
        "serve_app/models/README.md",
        "serve_app/streams/README.md",
    )
}
README = DOCUMENTS["README.md"]
CONFIGS = DOCUMENTS["configs/README.md"]
API = DOCUMENTS["serve_app/api/README.md"]
STREAMS = DOCUMENTS["serve_app/streams/README.md"]
JOBS = DOCUMENTS["serve_app/jobs/README.md"]
ERRORS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.ServeAppError)]
ITEM_ERRORS: list[type[errors.ServeAppError]] = [MissingItem, ChangedItem, UnreadableItem]
JOB_SOURCES = get_args(get_args(job_schemas.SourceSpec)[0])
LINKS = sorted(
    {
        (path, link)
        for path, text in DOCUMENTS.items()
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if ":" not in link
    }
)


def section(text: str, heading: str) -> str:
    """Return a section, from its heading to the next heading of the same or a higher level."""
    level = heading.split()[0]
    start = text.index(f"\n{heading}\n")
    following = re.search(rf"^#{{1,{len(level)}}} ", text[start + len(heading) + 2 :], re.MULTILINE)
    return text[start:] if following is None else text[start : start + len(heading) + 2 + following.start()]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub creates for a document's headings."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def settings() -> list[tuple[str, str]]:
    """Return pairs of a setting, written ``section.name``, and its default as text."""
    pairs = [(f"{section}.{name}", value) for section, values in config.parse_args({}) for name, value in values]
    nested = [(name, value) for name, value in pairs if isinstance(value, BaseModel)]
    inner = [(f"{outer}.{name}", value) for outer, values in nested for name, value in values]
    return [(name, str(value)) for name, value in pairs + inner if not isinstance(value, BaseModel)]


def test_every_document_is_listed() -> None:
    found = {
        str(path.relative_to(ROOT))
        for folder in ("configs", "scripts", "serve_app")
        for path in (ROOT / folder).rglob("*.md")
    }
    assert found | {path.name for path in ROOT.glob("*.md")} == DOCUMENTS.keys()


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 120
    assert len(README) <= 14_000


@pytest.mark.parametrize("path", DOCUMENTS)
def test_prose_fits_120_columns(path: str) -> None:
    assert [line for line in DOCUMENTS[path].splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_the_glossary_has_at_most_40_words() -> None:
    words = re.findall(
        r"^\| ([^|]+) \| [^|]+ \|$", section(DOCUMENTS["serve_app/README.md"], "## Glossary"), re.MULTILINE
    )
    assert words[0] == "term"
    assert len(words) - 1 == len(set(words)) - 1 <= 40


def test_the_change_log_begins_with_this_version() -> None:
    log = section(DOCUMENTS["scripts/README.md"], "## Change log")
    newest = re.search(r"^### (\S+)", log, re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


@pytest.mark.parametrize("path", ["configs/README.md", "configs/kuberay/rayservice.yaml"])
def test_the_images_tag_is_this_version(path: str) -> None:
    assert set(re.findall(r"sightline:(\d[\w.]*)-gpu", (ROOT / path).read_text())) == {__version__}


@pytest.mark.parametrize("path", DOCUMENTS)
def test_no_row_of_a_table_is_there_twice(path: str) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", DOCUMENTS[path], re.MULTILINE):
        rows = table.splitlines()
        assert len(rows) == len(set(rows)), [row for row in rows if rows.count(row) > 1]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_no_document_has_marks_of_an_unfinished_merge(path: str) -> None:
    assert not re.search(r"^(<{7}|={7}|>{7})( |$)", DOCUMENTS[path], re.MULTILINE)


@pytest.mark.parametrize(("name", "default"), settings())
def test_every_setting_is_in_the_table_with_its_default(name: str, default: str) -> None:
    shown = "" if default == "None" else f"`{default}`"
    assert re.search(rf"^\| `{re.escape(name)}` \| `SERVE_APP_\w+` \| {re.escape(shown)} \|", CONFIGS, re.MULTILINE)


def test_every_variable_is_in_the_table() -> None:
    assert config.variables() - set(re.findall(r"SERVE_APP_\w+", CONFIGS)) == set()


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_variable_that_a_document_names_exists(path: str) -> None:
    assert set(re.findall(r"SERVE_APP_\w+", DOCUMENTS[path])) - config.variables() == set()


@pytest.mark.parametrize(
    "metric", [value for value in vars(telemetry).values() if isinstance(value, Metric)], ids=lambda metric: metric.name
)
def test_every_metric_is_in_the_table(metric: Metric) -> None:
    name = f"ray_{metric.name}" + ("_total" if metric.kind == "counter" else "")
    assert f"| `{name}` | {', '.join(f'`{tag}`' for tag in metric.tags)} |" in CONFIGS


@pytest.mark.parametrize(
    ("status_code", "code"),
    sorted({(cls.status_code, cls.code) for cls in ERRORS + ITEM_ERRORS if cls.code != "start"}),
)
def test_every_error_code_is_in_the_table_with_its_status(status_code: int, code: str) -> None:
    assert f"\n| {status_code} | `{code}` |" in section(API, "## Errors")


LIMITS = re.findall(
    r"^\| `([\w.]+)` \| ([^|]+) \| [^|]+ \| (\d{3}) `(\w+)` \| [^|]+ \|$",
    section(API, "## Limits and what to raise"),
    re.MULTILINE,
)


def test_every_limit_that_a_refusal_names_is_in_the_table_once_and_no_other() -> None:
    assert sorted(name for name, *_ in LIMITS) == sorted(set(get_args(errors.Limit)) - {""})


@pytest.mark.parametrize(("name", "default", "status_code", "code"), LIMITS)
def test_a_limit_with_a_dot_in_its_name_is_a_setting_and_the_others_are_fixed(
    name: str, default: str, status_code: str, code: str
) -> None:
    assert ("." in name) == (name in dict(settings()))
    if "." in name:
        assert default == f"`{dict(settings())[name]}`"
    (status,) = {cls.status_code for cls in ERRORS if cls.code == code}
    assert int(status_code) == status


def test_the_fixed_limits_are_as_the_table_says() -> None:
    fixed = {name: default.removeprefix("fixed: ") for name, default, *_ in LIMITS if default.startswith("fixed: ")}
    assert fixed == {
        "video_frames": str(preprocessor.MAX_VIDEO_FRAMES),
        "form_parts": str(credentials._MAX_PARTS),
        "bodies_with_keys": str(credentials._MAX_WAITING),
        "job_files": f"{job_submission.MAX_FILES:,}",
        "json_body": f"{middleware._MAX_BODY_BYTES >> 20} MiB",
        "followers": str(events._MAX_FOLLOWERS),
        "previews": str(previews.MAX_PREVIEWS),
        "preview_messages": str(previews.MAX_MESSAGES_PER_S),
        "source_frames": str(source_frames.MAX_SOURCE_FRAMES),
        "sign_ins": str(session.MAX_SIGN_INS),
        "failed_sign_ins": str(session.MAX_FAILED_PER_S),
        "supervisor_calls": str(stubs.SUPERVISOR_MAX_CALLS),
        "url_fetches": str(url_fetcher._MAX_FETCHES),
        "url_fetches_per_key": str(url_fetcher._MAX_FETCHES_PER_KEY),
    }
    assert f'`{{"url": …}}`, more than {bodies._MAX_JSON_BYTES >> 10} KiB' in API
    assert f"`PUT /jobs/{{id}}`, the limit is {job_submission.MAX_SPEC_BYTES >> 20} MiB" in API
    defaults, slots = {name: default for name, default, *_ in LIMITS}, config.parse_args({}).preprocessor
    assert defaults["max_queued_requests"] == f"`{slots.max_calls - slots.slots}`"


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_of_a_stream_is_in_the_table(state: str) -> None:
    assert re.search(rf"^\|[^|]*`{state}`[^|]*\|", section(STREAMS, "## States"), re.MULTILINE)


@pytest.mark.parametrize("event_type", get_args(EventType))
def test_every_type_of_event_is_named(event_type: str) -> None:
    assert f"`{event_type}`" in section(STREAMS, "## Events and sinks")


def test_the_keys_file_shown_is_valid() -> None:
    shown = re.search(r"```yaml\n(.*?)```", section(API, "## API keys"), re.DOTALL)
    assert shown is not None
    assert [key.name for key in parse_keys(shown[1])] == ["dock"]


def test_other_names_of_parameters_mean_what_the_table_says() -> None:
    (row,) = re.findall(r"^\| other parameter names \|(.*)\|$", API, re.MULTILINE)
    named = {
        name: meaning
        for names, meaning in re.findall(r"((?:`[^`]+`(?:, | and )?)+) means? `(\w+)`", row)
        for name in re.findall(r"`([^`]+)`", names)
    }
    assert named
    assert named.items() <= ALIASES.items()


def test_the_answer_shown_has_the_form_of_an_answer() -> None:
    found = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert found is not None
    shown = json.loads(found[1])
    assert DetectResponse.model_validate(shown).model_dump() == shown
    assert shown["count"] == len(shown["detections"])


@pytest.mark.parametrize(
    "path",
    sorted(
        {path for text in DOCUMENTS.values() for path in re.findall(r"(?<![\w/])(?:scripts|configs)/[\w./]+\b", text)}
    ),
)
def test_every_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("path", "link"), LINKS)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(path: str, link: str) -> None:
    target, _, anchor = link.partition("#")
    file = ((ROOT / path).parent / target).resolve() if target else ROOT / path
    assert file.exists()
    if anchor:
        assert anchor in anchors(file.read_text())


@pytest.mark.parametrize("state", get_args(JobState))
def test_every_state_of_a_job_is_in_the_table(state: str) -> None:
    assert f"| `{state}` |" in section(JOBS, "## States")


@pytest.mark.parametrize("kind", [source.model_fields["type"].annotation.__args__[0] for source in JOB_SOURCES])
def test_every_source_of_jobs_is_in_the_table(kind: str) -> None:
    assert f"| `{kind}` |" in section(JOBS, "## Sources")


@pytest.mark.parametrize("kind", get_args(Format))
def test_every_format_of_results_is_in_the_table(kind: str) -> None:
    assert f"| `{kind}` |" in section(JOBS, "## Results")
