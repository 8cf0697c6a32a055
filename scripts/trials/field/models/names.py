"""Cases of class names: how exporters write them, and which classes the parameter ``classes`` selects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from scripts.trials.field.case import Case
from scripts.trials.field.models.constant import anchors, rows, save, save_folder
from scripts.trials.field.models.verdicts import Make, Problem, refused, served
from serve_app.errors import InvalidParameter
from serve_app.schemas.detect import DetectQuery, DetectSettings
from serve_app.types import DetectOptions, EngineInfo, InputShape, ModelInfo

TWICE = ("truck", "bus", "car", "car", "person, sitting")


def _onnx(names: str | None) -> Make:
    return lambda folder: save(folder / "constant.onnx", anchors(), names=names)


def _folder(metadata: str) -> Make:
    return lambda folder: save_folder(folder / "constant_openvino_model", anchors(), metadata=metadata)


def _latin_1(folder: Path) -> Path:
    path = save(folder / "constant.onnx", anchors(), names="['M@dchen', 'car']")
    path.write_bytes(path.read_bytes().replace(b"M@dchen", b"M\xe4dchen"))
    return path


def _of_many(names: str, classes: int) -> Make:
    return lambda folder: save(folder / "constant.onnx", anchors(classes), names=names)


def _chosen(settings: DetectSettings, labels: Sequence[str], expected: tuple[int, ...] | None) -> Problem:
    """Return a function that checks that a request selects the class ids ``expected``.

    If ``expected`` is None, the request must be refused.
    """

    def problem(_: str) -> str | None:
        engine = EngineInfo("model", "1", "none", tuple(labels), InputShape.square(64), end_to_end=False)
        model = ModelInfo(engine, "1", DetectOptions(0.5, 0.7, 300))
        try:
            found = settings.to_params().to_options(model).class_ids
        except InvalidParameter as exc:
            return f"it is refused: {exc}" if expected is not None else None
        return None if found == expected else f"the classes are {found}, and should be {expected}"

    return problem


def _query(*values: str) -> DetectSettings:
    return DetectQuery(classes=list(values))


def _json(text: str) -> DetectSettings:
    return DetectSettings.model_validate_json(text)


_FORMS: dict[str, Problem] = {
    "a mapping as Python prints it": served(_onnx("{0: 'person', 1: 'car'}")),
    "a list as Python prints it": served(_onnx("['person', 'car']")),
    "a tuple as Python prints it": served(_onnx("('person', 'car')")),
    "a mapping with keys of text": served(_onnx("{'0': 'person', '1': 'car'}")),
    "a mapping out of order": served(_onnx("{1: 'car', 0: 'person'}")),
    "JSON, a mapping": served(_onnx(json.dumps({0: "person", 1: "car"}))),
    "JSON, a list": served(_onnx(json.dumps(["person", "car"]))),
    "JSON, with characters beyond ASCII": served(_onnx(json.dumps(["Fußgänger", "自動車🚗"])), label="自動車🚗"),
    "YAML, a mapping": served(_onnx("0: person\n1: car\n")),
    "YAML, a list without quotes": served(_onnx("[person, car]")),
    "Python with characters beyond ASCII": served(_onnx(str({0: "Fußgänger", 1: "자동차"})), label="자동차"),
    "a label with quotes in it": served(_onnx(str(["it's", 'a "car"'])), label='a "car"'),
    "labels that are numbers": served(_onnx("{0: 1, 1: 2}"), label="2"),
    "an empty label": served(_onnx("{0: 'person', 1: ''}"), label=""),
    "half of a surrogate pair": served(_onnx(r'["person", "car\ud83d"]'), label="car\N{REPLACEMENT CHARACTER}"),
    "a folder's mapping": served(_folder(yaml.safe_dump({"names": {0: "person", 1: "car"}})), engines=["openvino"]),
    "a folder's list": served(_folder("names: [person, car]\n"), engines=["openvino"]),
    "a folder's labels that YAML reads as booleans": served(
        _folder("names: {0: yes, 1: no}\n"), engines=["openvino"], label="no"
    ),
    "a folder's labels beyond ASCII": served(
        _folder("names: [Mädchen, Öltank]\n"), engines=["openvino"], label="Öltank"
    ),
    "none": refused(_onnx(None), "does not name its classes"),
    "an empty mapping": refused(_onnx("{}"), "has no class names"),
    "an empty list": refused(_onnx("[]"), "has no class names"),
    "words with commas": refused(_onnx("person,car"), "does not name its classes"),
    "Latin-1": refused(_latin_1, "does not name its classes"),
    "a gap": refused(_onnx("{0: 'person', 2: 'car'}"), "no name for class 1"),
    "counted from one": refused(_onnx("{1: 'person', 2: 'car'}"), "no name for class 0"),
    "keys that are not numbers": refused(_onnx("{'a': 'person', 'b': 'car'}"), "not class ids"),
    "fewer names than classes": refused(_of_many("['a', 'b']", 5), "more classes than it names|classes that it names"),
    "more names than classes": refused(_of_many("['a', 'b', 'c']", 2), "classes that it names"),
    "fewer names than an end-to-end head returns": refused(
        lambda folder: save(folder / "constant.onnx", rows(class_id=7)), "returns class 7, but names only 2 classes"
    ),
    "nested too deeply": refused(_onnx("[" * 5000), "does not name its classes"),
    "labels that are mappings": refused(_onnx("{0: {'name': 'person'}, 1: {'name': 'car'}}"), "instead of labels"),
}
_CHOICES: dict[str, Problem] = {
    "a label that occurs twice": _chosen(_query("car"), TWICE, (2, 3)),
    "one of two equal labels, by its id": _chosen(_query("3"), TWICE, (3,)),
    "a label with a comma": _chosen(_query("person, sitting"), TWICE, (4,)),
    "labels with commas between them": _chosen(_query("truck,bus"), TWICE, (0, 1)),
    "spaces around labels": _chosen(_query(" truck , 1 "), TWICE, (0, 1)),
    "a label with a comma, and another one": _chosen(_query("person, sitting", "car"), TWICE, (2, 3, 4)),
    "a label with a comma among others in one value": _chosen(_query("car,person, sitting"), TWICE, None),
    "a label with a comma, by its id among others": _chosen(_query("car,4"), TWICE, (2, 3, 4)),
    "a part of a label with a comma": _chosen(_query("person"), TWICE, None),
    "a number that is a label and an id: the label wins": _chosen(_query("1"), ("9", "0", "1"), (2,)),
    "JSON: a label with a comma": _chosen(_json('{"classes": ["person, sitting"]}'), TWICE, (4,)),
    "JSON: a label that occurs twice": _chosen(_json('{"classes": ["car"]}'), TWICE, (2, 3)),
    "JSON: never split": _chosen(_json('{"classes": ["truck,bus"]}'), TWICE, None),
    "JSON: an id as text": _chosen(_json('{"classes": ["3"]}'), TWICE, (3,)),
    "JSON: a number is always an id": _chosen(_json('{"classes": [1]}'), ("9", "0", "1"), (1,)),
    "an unknown id": _chosen(_query("5"), TWICE, None),
    "no class": _chosen(_query(), TWICE, None),
}
CASES = (
    *(Case("names of classes", member, problem) for member, problem in _FORMS.items()),
    *(Case("classes of a request", member, problem) for member, problem in _CHOICES.items()),
)
