"""The OpenAPI document: every operation is described, and its examples are valid."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.routing import iter_route_contexts
from jsonschema import Draft202012Validator
from schemathesis.core.result import Ok

from serve_app import __version__
from serve_app.api.access.permissions import RouteTable
from serve_app.types import Json
from tests.support.api import build, client_of

pytestmark = pytest.mark.anyio

API = build()
TABLE: RouteTable = vars(API)["route_table"]  # an attribute of our FastAPI subclass
DOCUMENT: Json = json.loads(json.dumps(API.openapi()))
OPERATIONS = [(method, path) for path, operations in DOCUMENT["paths"].items() for method in operations]
FUNCTIONS = {
    (route.path, method): route.name for route in iter_route_contexts(API.routes) for method in route.methods or ()
}


def closed(schema: Any) -> Any:
    """Return a schema that forbids undeclared fields, so that a misspelt field in an example is an error."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    own = {} if "properties" not in schema else {"additionalProperties": schema.get("additionalProperties", False)}
    return {name: closed(part) for name, part in schema.items()} | own


def problems(example: Any, schema: Json) -> list[str]:
    """Return the validation errors of an example."""
    whole = closed(schema | {"components": DOCUMENT["components"]})
    return [error.message for error in Draft202012Validator(whole).iter_errors(example)]


def media(operation: Json) -> Iterator[tuple[str, Json]]:
    """Yield the media types of an operation's request and successful responses, as pairs of name and description."""
    yield from operation.get("requestBody", {}).get("content", {}).items()
    for status_code, response in operation["responses"].items():
        if status_code.startswith("2"):
            yield from response.get("content", {}).items()


def examples_in(content: Json) -> list[Any]:
    single = [content["example"]] if "example" in content else []
    return single + [example["value"] for example in content.get("examples", {}).values()]


def is_text(media_type: str) -> bool:
    return media_type in {"application/json", "text/event-stream"}


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=" ".join)
def test_an_operation_has_its_own_summary_and_description(method: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    summary, description = operation["summary"], operation["description"]
    name = FUNCTIONS[path, method.upper()]
    assert len(summary.split()) >= 2
    assert name is not None
    assert summary != name.replace("_", " ").title()  # FastAPI's default summary
    assert not summary.endswith(".")
    sentence = description.partition("\n\n")[0]
    assert sentence.endswith(".")
    assert len(sentence.split()) >= 5
    assert operation["operationId"] == name


def test_no_two_operations_share_a_name_or_summary() -> None:
    for field in ("operationId", "summary"):
        names = [DOCUMENT["paths"][path][method][field] for method, path in OPERATIONS]
        assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=" ".join)
def test_an_operation_has_examples_that_match_their_schemas(method: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    shown = 0
    for media_type, content in media(operation):
        examples = examples_in(content)
        assert examples or not is_text(media_type), f"{media_type} has no example"
        shown += len(examples)
        for example in examples:
            assert problems(example, content.get("schema", {})) == []
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            examples = parameter["schema"]["examples"]
            shown += len(examples)
            assert all(problems(example, parameter["schema"]) == [] for example in examples)
    assert shown or (method, path) == ("delete", "/session")  # it has neither a body nor a parameter


def test_an_invalid_example_is_noticed() -> None:
    schema = DOCUMENT["paths"]["/streams"]["post"]["requestBody"]["content"]["application/json"]
    for change in ({"typo": 1}, {"max_fps": "ten"}, {"source": {"uri": "a.mp4", "typo": 1}}):
        assert problems(schema["example"] | change, schema["schema"])


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=" ".join)
def test_an_operation_states_the_permission_that_its_router_declares(method: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    access = TABLE.find({"type": "http", "method": method.upper(), "path": path})
    assert access is not None
    if access.permission is None:
        assert "security" not in operation
        assert operation["description"].endswith("\n\nThis operation needs no API key.")
        # Only POST /session has a key in its body.
        assert path == "/session" or not {"401", "403", "429"} & set(operation["responses"])
        return
    scopes = [] if access.permission == "any" else [access.permission]
    assert operation["security"] == [{"key": scopes}]
    needed = f"the permission `{access.permission}`" if scopes else "any API key"
    assert operation["description"].endswith(f"this operation needs {needed}.")
    assert {"400", "401", "403", "429", "503"} <= set(operation["responses"])


def test_the_document_is_valid_and_names_the_version() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    assert DOCUMENT["info"]["version"] == __version__
    assert DOCUMENT["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    schema = schemathesis.openapi.from_dict(copy.deepcopy(DOCUMENT))
    schema.validate()
    operations = list(schema.get_all_operations())
    assert all(isinstance(operation, Ok) and operation.ok() for operation in operations)
    assert len(operations) == len(OPERATIONS)


def test_every_error_response_has_the_same_form_and_an_example_with_a_limit() -> None:
    error = DOCUMENT["components"]["schemas"]["ErrorResponse"]
    assert error["required"] == ["code", "detail", "request_id"]
    assert problems(error["example"], error) == []
    assert error["example"]["limit"]
    for method, path in OPERATIONS:
        for status_code, response in DOCUMENT["paths"][path][method]["responses"].items():
            if status_code.startswith(("4", "5")):
                assert "ErrorResponse" in str(response["content"]["application/json"]["schema"])
                assert response["description"].startswith("`")


async def test_the_document_names_a_root_path_as_its_server() -> None:
    transport = httpx.ASGITransport(build(), root_path="/sightline")
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/sightline") as client:
        assert (await client.get("/openapi.json")).json()["servers"] == [{"url": "/sightline"}]
    transport = httpx.ASGITransport(build())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert "servers" not in (await client.get("/openapi.json")).json()
        assert (await client.head("/openapi.json")).status_code == 200


def test_known_operations_need_the_expected_permissions() -> None:
    paths = DOCUMENT["paths"]
    assert paths["/detect"]["post"]["security"] == [{"key": ["detect"]}]
    assert paths["/models"]["get"]["security"] == [{"key": ["detect"]}]
    assert paths["/streams/{stream_id}"]["put"]["security"] == [{"key": ["streams"]}]
    assert paths["/jobs/{job_id}/items"]["get"]["security"] == [{"key": ["jobs"]}]
    assert paths["/streams/{stream_id}/owner"]["put"]["security"] == [{"key": ["admin"]}]
    assert "security" not in paths["/readyz"]["get"]


async def test_openapi_describes_the_request_the_responses_and_the_errors() -> None:
    async with client_of(API) as client:
        detect = (await client.get("/openapi.json")).json()["paths"]["/detect"]["post"]
    assert {"multipart/form-data", "image/*", "application/json"} <= set(detect["requestBody"]["content"])
    assert {parameter["name"] for parameter in detect["parameters"]} == {
        "model",
        "confidence",
        "iou",
        "classes",
        "max_detections",
        "agnostic_nms",
        "mask",
    }
    assert set(detect["responses"]) == {
        *("200", "202", "400", "401", "403", "413", "415", "422", "429", "500", "503", "504", "507"),
    }
    for status_code, response in detect["responses"].items():
        schema = str(response["content"]["application/json"]["schema"])
        assert ("ErrorResponse" in schema) == (not status_code.startswith("2"))
