"""Tests of ``sightline drift`` with a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app.cli.drift_plot import save_plot, shown_bins
from serve_app.cli.drift_table import drift_table
from serve_app.schemas.drift import (
    DriftHistograms,
    FeatureDrift,
    FeatureHistogram,
    ReferenceStatus,
    SourceDrift,
)
from tests.support.command import sightline
from tests.support.stream_server import serve_streams

DRIFTING = SourceDrift(
    model="default",
    version="1",
    source="stream/lot",
    state="drifting",
    drifting=["brightness", "area"],
    since_at_s=1764331200.0,
    window_images=200,
    reference=ReferenceStatus(images=24000, hours=[3], origin="first_images"),
    features={
        "area": FeatureDrift(psi=0.6, limit=0.5, observations=200, drifting=True),
        "brightness": FeatureDrift(psi=3, limit=0.5, observations=200, drifting=True),
        "aspect": FeatureDrift(psi=None, limit=None, observations=0, drifting=False, detail="too few"),
    },
)


def test_the_sources_of_the_server_are_listed() -> None:
    with serve_streams() as served:
        table = sightline("drift", "--url", served.url, COLUMNS="160").stdout
        assert [line.split()[:3] for line in table.splitlines() if "steady" in line] == [
            ["all", "default", "steady"],
            ["stream/lot", "default", "steady"],
        ]
        found = json.loads(sightline("drift", "--json", "--url", served.url).stdout)
        assert [one["source"] for one in found] == ["all", "stream/lot"]


def test_a_row_names_the_drifting_features_and_the_largest_figure() -> None:
    cells = [next(iter(column.cells)) for column in drift_table([DRIFTING]).columns]
    assert cells[2] == "drifting: brightness, area"
    assert cells[4:] == ["brightness 3.00 / 0.50", "24000 images", "200 images"]


def test_a_reference_is_saved_and_set_again(tmp_path: Path) -> None:
    file = tmp_path / "lot.json"
    with serve_streams() as served:
        sightline("drift", "reference", "stream/lot", "--save", str(file), "--url", served.url)
        sightline("drift", "reference", "stream/lot", "--file", str(file), "--url", served.url)
        sightline("drift", "reference", "stream/lot", "--since", "2026-11-01", "--url", served.url)
        set_ = served.drift.set
    assert [(new.reference is not None, new.since_at_s is not None) for new in set_] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "exactly one of --since, --file and --save"),
        (("--file", "missing.json"), "missing.json cannot be read"),
        (("--file", "bad.json"), "bad.json is not a reference"),
        (("--save", "none/lot.json"), "--save: "),
        (("--save", "lot.json", "--until", "2026-11-01"), "--until: use it with --since"),
    ],
)
def test_a_wrong_command_says_why(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    given = [str(tmp_path / one) if one.endswith(".json") else one for one in arguments]
    with serve_streams() as served:
        found = sightline("drift", "reference", "stream/lot", *given, "--url", served.url)
    assert found.returncode in {1, 2}
    assert words in found.stderr


def test_a_start_before_1970_is_the_earliest_start() -> None:
    with serve_streams() as served:
        found = sightline("drift", "reference", "stream/lot", "--since", "1960-01-01", "--url", served.url)
        assert (found.returncode, served.drift.set[0].since_at_s) == (0, 0)


@pytest.mark.parametrize(
    ("output", "words"), [("none/lot.png", "cannot be written"), ("lot.xyz", "use a name that ends in .png")]
)
def test_a_plot_that_cannot_be_saved_says_why(output: str, words: str, tmp_path: Path) -> None:
    with serve_streams() as served:
        found = sightline("drift", "plot", "stream/lot", "--output", tmp_path / output, "--url", served.url)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert words in found.stderr


def test_a_plot_without_a_suffix_is_saved_under_its_name(tmp_path: Path) -> None:
    with serve_streams() as served:
        assert sightline("drift", "plot", "stream/lot", "--output", tmp_path / "lot", "--url", served.url).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["lot"]


def test_a_server_without_images_has_no_table() -> None:
    with serve_streams() as served:
        served.drift.known.clear()
        assert sightline("drift", "--url", served.url).stdout == "no image has been measured yet\n"


@pytest.mark.parametrize("label", [r"$\bad{$", "貓", "x" * 1000, "\n"])
@pytest.mark.filterwarnings("error")
def test_any_label_can_be_plotted(label: str, tmp_path: Path) -> None:
    classes = FeatureHistogram(bins=[label, "person"], reference=[0.5, 0.5], current=[0.1, 0.9])
    histograms = DriftHistograms(model="default", source="stream/lot", features={"classes": classes})
    assert save_plot(histograms, tmp_path / "lot.png").exists()


def test_a_plot_has_only_bins_that_are_used(tmp_path: Path) -> None:
    sparse = FeatureHistogram(bins=list("abcd"), reference=[0, 0.5, 0, 0.5], current=[0, 0, 1, 0])
    assert shown_bins(sparse) == [1, 2, 3]
    many = FeatureHistogram(bins=[str(i) for i in range(96)], reference=[1 / 96] * 96, current=[0.0] * 95 + [1.0])
    assert len(shown_bins(many)) == 28
    assert shown_bins(many)[-1] == 95
    histograms = DriftHistograms(model="default", source="stream/lot", features={"brightness": sparse, "classes": many})
    assert save_plot(histograms, tmp_path / "lot.png").read_bytes().startswith(b"\x89PNG")
