"""The rules for descriptions of devices in Home Assistant's MQTT discovery, and its templates.

The rules are those of https://www.home-assistant.io/integrations/mqtt/ and of the pages about MQTT sensors, binary
sensors and images.
"""

from __future__ import annotations

import json
import re
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

_REQUIRED = {"sensor": {"state_topic"}, "binary_sensor": {"state_topic"}, "image": {"image_topic"}}
_OPTIONAL = {
    "sensor": {"device_class", "options", "state_class", "value_template"},
    "binary_sensor": {"device_class", "entity_category", "value_template"},
    "image": {"content_type"},
}
_SHARED = {"p", "unique_id", "name", "json_attributes_topic", "json_attributes_template"}
_TEMPLATES = {"value_template", "json_attributes_template"}
_DEVICE_CLASSES = {"sensor": {"enum"}, "binary_sensor": {"occupancy", "problem"}}
_ENVIRONMENT = ImmutableSandboxedEnvironment()  # Home Assistant's is derived from the same class


def checked(topic: str, payload: bytes) -> dict[str, Any]:
    """Return the description in a message. Raise AssertionError if it breaks a rule."""
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic)
    device: dict[str, Any] = json.loads(payload)
    assert {"dev", "o", "cmps"} <= device.keys() <= {"dev", "o", "cmps", "availability_topic", "state_topic", "qos"}
    assert device["dev"]["ids"]
    assert all(isinstance(one, str) for one in device["dev"]["ids"])
    assert device["dev"].keys() <= {"ids", "name", "mf", "mdl", "sw", "hw", "sn", "cu", "sa", "cns", "via_device"}
    assert isinstance(device["o"]["name"], str)
    assert device["o"].keys() <= {"name", "sw", "url"}
    assert device.get("qos", 0) in {0, 1, 2}
    assert not set("+#\0") & set(device["availability_topic"])
    for key, component in device["cmps"].items():
        assert re.fullmatch("[a-zA-Z0-9_-]+", key)
        _check_component(component)
    ids = [component["unique_id"] for component in device["cmps"].values() if len(component) > 1]
    assert len(set(ids)) == len(ids)
    names = [component["name"] for component in device["cmps"].values() if len(component) > 1]
    assert len(set(names)) == len(names)  # not a rule, but equal names could not be told apart
    return device


def _check_component(component: dict[str, Any]) -> None:
    kind = component["p"]
    if len(component) == 1:  # Home Assistant will remove the component
        assert kind in _REQUIRED
        return
    assert _REQUIRED[kind] | {"unique_id"} <= component.keys() <= _REQUIRED[kind] | _OPTIONAL[kind] | _SHARED
    for topic in component.keys() & {"state_topic", "image_topic", "json_attributes_topic"}:
        assert component[topic]
        assert not set("+#\0") & set(component[topic])
    if "device_class" in component:
        assert component["device_class"] in _DEVICE_CLASSES[kind]
    if "options" in component:  # allowed only for the class enum, and not together with a state class
        assert component["options"]
        assert component["device_class"] == "enum"
        assert "state_class" not in component
    assert component.get("state_class", "measurement") in {"measurement", "total", "total_increasing"}
    for template in component.keys() & _TEMPLATES:
        _ENVIRONMENT.from_string(component[template])


def value_of(component: dict[str, Any], state: bytes, template: str = "value_template") -> str:
    """Render a component's template for a state message, as Home Assistant does."""
    text = state.decode()
    return _ENVIRONMENT.from_string(component[template]).render(value=text, value_json=json.loads(text))
