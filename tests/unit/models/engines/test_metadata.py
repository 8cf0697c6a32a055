from __future__ import annotations

import pytest

from serve_app.errors import ModelError
from serve_app.models.engines.metadata import read_labels


def test_labels_cannot_control_a_terminal() -> None:
    names = {0: "\x1b]0;title\x07", 1: "cat\nINFO ready", 2: "\x9b2J", 3: "naïve 猫\u3000👩\u200d🚒"}
    labels = read_labels({"names": names})
    assert labels == ("?]0;title?", "cat?INFO ready", "?2J", "naïve 猫\u3000👩\u200d🚒")
    assert read_labels({"names": repr(names)}) == labels


def test_a_model_with_a_very_long_label_is_refused() -> None:
    assert read_labels({"names": ["x" * 1000]}) == ("x" * 1000,)
    with pytest.raises(ModelError, match=r"^the model has a class name of 1001 characters, but at most 1000 are"):
        read_labels({"names": ["cat", "x" * 1001]})
