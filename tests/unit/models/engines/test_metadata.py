from __future__ import annotations

import pytest

from serve_app.errors import ModelError
from serve_app.models.engines.metadata import COCO_KEYPOINTS, Metadata, read_input_shape, read_labels, read_metadata
from serve_app.types import InputShape, Json


def test_labels_cannot_control_a_terminal() -> None:
    names = {0: "\x1b]0;title\x07", 1: "cat\nINFO ready", 2: "\x9b2J", 3: "naïve 猫\u3000👩\u200d🚒"}
    labels = read_labels({"names": names})
    assert labels == ("?]0;title?", "cat?INFO ready", "?2J", "naïve 猫\u3000👩\u200d🚒")
    assert read_labels({"names": repr(names)}) == labels


def test_a_model_with_a_very_long_label_is_refused() -> None:
    assert read_labels({"names": ["x" * 1000]}) == ("x" * 1000,)
    with pytest.raises(ModelError, match=r"^the model has a class name of 1001 characters, but at most 1000 are"):
        read_labels({"names": ["cat", "x" * 1001]})


@pytest.mark.parametrize("task", [None, "", "null", "detect", "DETECT"])
def test_a_file_without_a_task_is_for_detection(task: str | None) -> None:
    assert read_metadata({"names": ["cat"], "task": task}) == Metadata("detect", ("cat",))


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ModelError, match="task is 'depth', but the supported tasks are detect, segment, pose, obb, cl"):
        read_metadata({"names": ["cat"], "task": "depth"})


@pytest.mark.parametrize(
    ("metadata", "names", "numbers"),
    [
        ({"kpt_shape": [17, 3]}, COCO_KEYPOINTS, 3),
        ({"kpt_shape": "[17, 3]", "kpt_names": "null"}, COCO_KEYPOINTS, 3),
        ({"kpt_shape": ["2", "2"]}, ("keypoint 1", "keypoint 2"), 2),
        ({"kpt_shape": "(2, 3)", "kpt_names": "{0: ['head', 'tail']}"}, ("head", "tail"), 3),
        ({"kpt_shape": [2, 3], "kpt_names": {"0": ["head", "tail\x1b"]}}, ("head", "tail?"), 3),
        ({"kpt_shape": [2, 3], "kpt_names": {0: ["0", "1"]}}, ("keypoint 1", "keypoint 2"), 3),  # made by Ultralytics
        ({"kpt_shape": [2, 3], "kpt_names": {0: ["head"]}}, ("keypoint 1", "keypoint 2"), 3),
    ],
)
def test_keypoints_get_the_names_in_the_metadata(metadata: Json, names: tuple[str, ...], numbers: int) -> None:
    found = read_metadata({"names": ["cat"], "task": "pose"} | metadata)
    assert found == Metadata("pose", ("cat",), names, numbers)


@pytest.mark.parametrize("shape", [None, "x", [17], [17, 4], [0, 3], [17, 3, 1]])
def test_a_pose_model_that_does_not_say_its_number_of_keypoints_is_refused(shape: object) -> None:
    with pytest.raises(ModelError) as refusal:
        read_metadata({"names": ["cat"], "task": "pose", "kpt_shape": shape})
    found = "missing" if shape is None else shape
    assert f"does not say how many keypoints it has: kpt_shape in its metadata is {found}, and" in str(refusal.value)


@pytest.mark.parametrize("sides", [[224, 224], "[224, 224]", 224, ["224", "224"]])
def test_a_classification_model_has_the_size_in_its_metadata(sides: object) -> None:
    wanted = InputShape.square(640)
    assert read_input_shape({"task": "classify", "imgsz": sides}, wanted) == InputShape.square(224)
    assert read_input_shape({"task": "detect", "imgsz": sides}, wanted) == wanted


@pytest.mark.parametrize("sides", [None, "x", [224], [0, 224]])
def test_a_classification_model_without_a_size_gets_that_in_the_settings(sides: object) -> None:
    assert read_input_shape({"task": "classify", "imgsz": sides}, InputShape.square(640)) == InputShape.square(640)
