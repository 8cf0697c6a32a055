"""The description of a stream for Home Assistant's MQTT discovery, which makes the stream a device there.

The rules are in https://www.home-assistant.io/integrations/mqtt/ (section "MQTT Discovery"). The rules for each kind of
entity are in https://www.home-assistant.io/integrations/sensor.mqtt/, /binary_sensor.mqtt/ and /image.mqtt/.
Descriptions of whole devices need Home Assistant 2024.12 or newer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import get_args

from serve_app import __version__
from serve_app.schemas.streams import Regions, State
from serve_app.streams.publication.messages import Topics
from serve_app.types import Json

STATUS_TOPIC = "homeassistant/status"  # Home Assistant publishes online here when it has started
EVERY_DEVICE = "homeassistant/device/+/config"
_PROBLEMS: tuple[State, ...] = ("reconnecting", "stalled", "blocked", "failed")


def discovery_topic(topics: Topics, stream_id: str) -> str:
    """Return the topic of a stream's description."""
    return f"homeassistant/device/{_device_id(topics, stream_id)}/config"


def is_discovery_topic(topics: Topics, topic: str) -> bool:
    """Return whether a topic is that of a description that a server with these topics has published."""
    return re.fullmatch(rf"homeassistant/device/{re.escape(_device_id(topics, ''))}[^/]+/config", topic) is not None


def components_of(topics: Topics, stream_id: str, regions: Regions) -> dict[str, Json]:
    """Return the description of each of a stream's entities, by a key that is unique in the stream.

    A template that yields None makes Home Assistant show the entity's value as unknown.
    """
    state_topic = topics.state(stream_id)
    entities: dict[str, Json] = {
        "state": {
            "p": "sensor",
            "name": "State",
            "device_class": "enum",
            "options": list(get_args(State)),
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": state_topic,
            "json_attributes_template": "{{ {'detail': value_json.detail} | tojson }}",
        },
        "problem": {
            "p": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "value_template": f"{{{{ 'ON' if value_json.state in {list(_PROBLEMS)} else 'OFF' }}}}",
        },
        "occupancy": {
            "p": "binary_sensor",
            "name": "Occupancy",
            "device_class": "occupancy",
            "value_template": _if_running("'ON' if value_json.count > 0 else 'OFF'"),
        },
        "objects": {
            "p": "sensor",
            "name": "Objects",
            "state_class": "measurement",
            "value_template": _if_running("value_json.count"),
            "json_attributes_topic": state_topic,
            "json_attributes_template": "{{ value_json.counts | tojson }}",
        },
    }
    # The status of a stream has the field scene_health only if the camera's view is checked.
    scene = "(value_json.get('scene_health') or {})"
    entities["scene"] = {
        "p": "sensor",
        "name": "Scene",
        "value_template": _if_running(f"{scene}.get('state')"),
        "json_attributes_topic": state_topic,
        "json_attributes_template": f"{{{{ {{'detail': {scene}.get('detail')}} | tojson }}}}",
    }
    for zone in regions.zones:
        entities[f"zone_{_digest(zone.name)}"] = {
            "p": "sensor",
            "name": f"{zone.name}: objects",
            "state_class": "measurement",
            "value_template": _if_running(f"value_json.zones.get({_literal(zone.name)}, {{}}).get('inside')"),
        }
    for line in regions.lines:
        for direction in ("in", "out"):
            total = f"value_json.lines.get({_literal(line.name)}, {{}}).get('crossed_{direction}')"
            entities[f"line_{_digest(line.name)}_{direction}"] = {
                "p": "sensor",
                "name": f"{line.name}: {direction}",
                "state_class": "total_increasing",
                "value_template": f"{{{{ {total} }}}}",
            }
    for entity in entities.values():
        entity["state_topic"] = state_topic
    entities["image"] = {
        "p": "image",
        "name": "Last picture",
        "image_topic": topics.picture(stream_id),
        "content_type": "image/jpeg",
    }
    for key, entity in entities.items():
        entity["unique_id"] = f"{_device_id(topics, stream_id)}_{key}"
    return entities


def device_of(topics: Topics, stream_id: str, components: Mapping[str, Json], removed: Mapping[str, str]) -> Json:
    """Return the description of a stream as a device with these components.

    ``removed`` maps the key of each component that the device no longer has to its platform. Home Assistant removes a
    component when its description has nothing but the platform.
    """
    return {
        "dev": {
            "ids": [_device_id(topics, stream_id)],
            "name": stream_id,
            "mf": "Sightline",
            "mdl": "Stream",
            "sw": __version__,
        },
        "o": {"name": "Sightline", "sw": __version__},
        "cmps": {**{key: {"p": platform} for key, platform in removed.items()}, **components},
        "availability_topic": topics.status,
        "qos": 1,
    }


def _device_id(topics: Topics, stream_id: str) -> str:
    """Return an id of letters, digits, underscores and hyphens, which no stream of another server has.

    The ids of streams have only these characters. The digest has a fixed length, so that no two pairs of a prefix and a
    stream's id give the same id.
    """
    return f"sightline_{_digest(topics.prefix)}_{stream_id}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:10]


def _if_running(expression: str) -> str:
    """Return a template whose value is unknown unless the stream is running, because its last counts are old then."""
    return f"{{{{ ({expression}) if value_json.state == 'running' else None }}}}"


def _literal(text: str) -> str:
    """Return a text as a string literal of Jinja, with the escape sequences that Python also has."""
    escaped = text.encode("unicode_escape").decode().replace('"', '\\"')
    return f'"{escaped}"'
