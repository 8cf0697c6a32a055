"""Test every route with every permission.

The cases are made from the application's routes, so they include new routes.
"""

from __future__ import annotations

import re

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount, WebSocketRoute
from starlette.types import Message

from serve_app.api.access.permissions import RouteAccess, Router, RouteTable
from serve_app.api.access.protocols import Protocol
from serve_app.errors import Unauthorized
from tests.support.api import Keys, SharedApi, build, client_of, is_error

pytestmark = pytest.mark.anyio

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
API = build()
TABLE: RouteTable = vars(API)["route_table"]  # an attribute of our FastAPI subclass
HTTP = sorted({route.path for route in TABLE.routes if route.methods})
WEBSOCKET = sorted({route.path for route in TABLE.routes if not route.methods})


def access_to(path: str, method: str = "") -> RouteAccess:
    """Return the table's entry for the route that was declared with this path."""
    of_path = [route for route in TABLE.routes if route.path == path and bool(method) == bool(route.methods)]
    return next((route for route in of_path if method in route.methods), of_path[0])


def filled(path: str) -> str:
    names = "stream_id|job_id|name|model|owner|project|task|version|path:path"
    return re.sub(r"\{item\}", "0", re.sub(rf"\{{({names})\}}", "none", path))


def test_the_table_has_every_route_of_the_application() -> None:
    served = {(route.path, frozenset(route.methods or ())) for route in iter_route_contexts(API.routes)}
    assert served == {(route.path, route.methods) for route in TABLE.routes}
    assert {"/detect", "/models", "/streams/{stream_id}", "/jobs/{job_id}", "/readyz", "/openapi.json"} <= set(HTTP)
    assert WEBSOCKET == ["/jobs/{job_id}/events", "/streams/previews", "/streams/{stream_id}/events"]


def test_only_these_routes_are_open() -> None:
    """Every route that needs no key must be listed here, so that no route becomes public by mistake."""
    assert {route.path for route in TABLE.routes if route.permission is None} == {
        *("/health", "/livez", "/readyz"),
        *("/openapi.json", "/docs", "/docs/", "/docs/start.js", "/docs/{name}"),
        *("/v1/status/ping", "/v1/server/status/ping", "/v1/status/updateavailable"),
        "/info",
        *("/", "/console", "/console/{path:path}", "/session"),
    }


def test_only_these_routes_read_their_own_body() -> None:
    assert {(route.path, *route.methods) for route in TABLE.routes if route.reads_own_body} == {
        ("/detect", "POST"),
        ("/session", "POST"),
        ("/jobs", "POST"),
        ("/jobs/{job_id}", "PUT"),
        ("/jobs/{job_id}/files/{name}", "PUT"),
        ("/v1/vision/detection", "POST"),
        ("/v1/vision/custom/{model}", "POST"),
        ("/v2/models/{model}/infer", "POST"),
        ("/v2/models/{model}/versions/{version}/infer", "POST"),
        ("/predict", "POST"),
        ("/api/models/{owner}/{project}/{model}/predict", "POST"),
        *((f"/model/{action}", "POST") for action in ("add", "remove", "clear")),
        ("/infer/{task}", "POST"),
    }


def test_only_administrators_set_owners_and_references() -> None:
    assert {route.path for route in TABLE.routes if route.permission == "admin"} == {
        "/streams/{stream_id}/owner",
        "/jobs/{job_id}/owner",
        "/drift/reference",
    }


class Callers:
    """One key for each permission, an expired key, and no key."""

    def __init__(self, keys: Keys) -> None:
        self.file = keys
        self.keys = {name: keys.add(name, name) for name in ("detect", "streams", "jobs", "admin")}
        self.others = {"none": {}, "expired": keys.add("expired", "admin", expires="2020-01-01")}

    def expected(self, access: RouteAccess) -> list[tuple[dict[str, str], str]]:
        """Return each caller's header and expected outcome, which is ``admitted`` or the code of the refusal."""
        if access.permission is None:
            return [(header, "admitted") for header in (self.keys | self.others).values()]
        outcomes = [(header, "unauthorized") for header in self.others.values()]
        for name, header in self.keys.items():
            is_admitted = access.permission == "any" or name in {access.permission, "admin"}
            outcomes.append((header, "admitted" if is_admitted else "forbidden"))
        return outcomes


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    return Callers(Keys(tmp_path_factory.mktemp("keys") / "keys.yaml"))


@pytest.fixture(scope="module")
def shared_api(callers: Callers) -> SharedApi:
    return SharedApi(callers.file)


@pytest.mark.parametrize("path", HTTP)
async def test_a_route_admits_only_keys_that_have_its_permission(
    shared_api: SharedApi, callers: Callers, path: str
) -> None:
    """Send requests with all methods.

    Include methods that the route lacks, because the server checks the key before it responds 405.
    """
    metrics = shared_api.metrics
    async with client_of(shared_api.api) as client:
        for method in METHODS:
            access = access_to(path, method)
            chosen = TABLE.find({"type": "http", "method": method, "path": filled(path)})
            if chosen is not None and chosen.path != path and method not in access.methods:
                continue  # another route has this path, too, for example /streams/{stream_id} that of /streams/snapshot
            admitted = set()
            for header, outcome in callers.expected(access):
                counted_before = len(metrics.requests)
                response = await client.request(method, filled(path), headers=header)
                if outcome == "admitted":
                    admitted.add(response.status_code)
                else:
                    assert is_refusal(response, 401 if outcome == "unauthorized" else 403, outcome, access.protocol), (
                        method,
                        header,
                    )
                counted = [] if outcome == "unauthorized" or access.permission is None else [outcome]
                assert [counted for _, counted in metrics.requests[counted_before:]] == counted
            assert len(admitted) == 1, method
            assert not {401, 403, 429, 500} & admitted, method
            assert (admitted == {405}) == (method not in access.methods), method


def is_refusal(response: httpx.Response, status_code: int, code: str, protocol: Protocol | None = None) -> bool:
    """Return whether the response is this error, in the form of the route's protocol."""
    if response.request.method == "HEAD":
        return response.status_code == status_code
    if protocol is not None:
        _, form = protocol.error(Unauthorized("no key"), "")
        return response.status_code == status_code and response.json().keys() == form.keys()
    return is_error(response, status_code, code)


async def first_message(api: FastAPI, path: str, header: dict[str, str]) -> Message:
    """Connect a WebSocket, and return the first message that the server sends."""
    events: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
    incoming = iter(events)
    sent: list[Message] = []

    async def receive() -> Message:
        return next(incoming)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(name.lower().encode(), value.encode()) for name, value in header.items()]
    scope = {"type": "websocket", "path": path, "headers": headers, "query_string": b"", "extensions": {}}
    await api(scope | {"extensions": {"websocket.http.response": {}}}, receive, send)
    return sent[0]


@pytest.mark.parametrize("path", WEBSOCKET)
async def test_a_websocket_is_accepted_only_from_keys_that_have_its_permission(
    shared_api: SharedApi, callers: Callers, path: str
) -> None:
    for header, outcome in callers.expected(access_to(path)):
        response = await first_message(shared_api.api, filled(path), header)
        if outcome == "admitted":
            assert response["type"] == "websocket.accept"
        else:
            assert (response["type"], response["status"]) == (
                "websocket.http.response.start",
                401 if outcome == "unauthorized" else 403,
            )


@pytest.mark.parametrize("path", ["/detect", "/health", "/nothing", "/streams/lot"])
async def test_a_websocket_to_another_route_gets_404_without_a_key(shared_api: SharedApi, path: str) -> None:
    response = await first_message(shared_api.api, path, {})
    assert (response["type"], response["status"]) == ("websocket.http.response.start", 404)


BODIES = [
    (method, path) for path in HTTP for method in ("POST", "PUT", "PATCH") if method in access_to(path, method).methods
]


@pytest.mark.parametrize(
    ("method", "path"), [(m, p) for m, p in BODIES if not access_to(p, m).reads_own_body], ids=" ".join
)
async def test_a_body_that_the_route_does_not_read_itself_is_limited(
    shared_api: SharedApi, callers: Callers, method: str, path: str
) -> None:
    metrics = shared_api.metrics
    refusals, limits = len(metrics.refusals), len(metrics.limits)
    async with client_of(shared_api.api) as client:
        header = callers.keys["admin"]
        response = await client.request(method, filled(path), content=b" " * (2**20 + 1), headers=header)
    assert response.is_client_error
    assert (metrics.refusals[refusals:], metrics.limits[limits:]) == (["too_large"], ["json_body"])


@pytest.mark.parametrize(
    "path", ["/nothing", "/consoles", "/streams/lot/nothing", "/streams//lot", "/detect/x", "/docs/x/y"]
)
async def test_an_unknown_route_gets_404_without_a_key(shared_api: SharedApi, path: str) -> None:
    async with client_of(shared_api.api) as client:
        for method in METHODS:
            assert is_refusal(await client.request(method, path), 404, "not_found")


@pytest.mark.parametrize("path", ["/streams/", "//streams", "//streams//"])
async def test_extra_slashes_do_not_bypass_the_key(shared_api: SharedApi, path: str) -> None:
    async with client_of(shared_api.api) as client:
        assert is_refusal(await client.get(f"http://localhost{path}"), 401, "unauthorized")


async def test_a_route_outside_our_routers_gets_404(keys: Keys) -> None:
    api = build(keys=keys)
    api.add_api_route("/extra", lambda: "open to everybody?")
    async with client_of(api) as client:
        assert is_error(await client.get("/extra", headers=keys.add("dock", "admin")), 404, "not_found")


# Routers


def test_a_router_must_declare_a_permission() -> None:
    with pytest.raises(TypeError, match="permission"):
        Router()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="permission"):
        Router(prefix="/compat")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="permission: 'strems' is unknown"):
        Router(permission="strems")  # type: ignore[arg-type]


def test_the_table_refuses_a_plain_fastapi_router() -> None:
    plain = APIRouter()
    plain.add_api_route("/extra", lambda: "open to everybody?")
    with pytest.raises(AttributeError, match="permission"):
        RouteTable([plain])  # type: ignore[list-item]


def test_a_router_cannot_be_nested_in_another_router() -> None:
    with pytest.raises(TypeError, match="cannot include another router"):
        Router(permission=None).include_router(Router(permission="admin"))
    outer = Router(permission=None)
    outer.routes.append(Mount("/inside", FastAPI()))
    with pytest.raises(TypeError, match="routes that list their methods"):
        RouteTable([outer])


def overlapping() -> tuple[Router, ...]:
    """Return routers whose routes match the same paths. Each route responds with its own path."""
    first, second, third = (Router(permission=permission) for permission in ("detect", "streams", None))

    def add(router: Router, method: str, path: str) -> None:
        router.add_api_route(path, lambda: path, methods=[method])

    add(first, "POST", "/a/fixed")
    add(first, "GET", "/a/{x}")
    add(second, "GET", "/a/fixed")
    add(second, "PUT", "/b/{rest:path}")
    add(third, "GET", "/b/c")
    add(third, "DELETE", "/a/{x}")
    add(third, "GET", "/n/{x:int}")

    async def follow(socket: WebSocket) -> None:
        await socket.accept()

    third.routes.append(WebSocketRoute("/a/{x}", follow))
    return first, second, third


@pytest.mark.parametrize(
    "path",
    ["/a/1", "/a/fixed", "/a/", "/a", "/a/1/2", "/A/1", "//a/1", "/b/c", "/b/c/d", "/b/", "/b", "/n/7", "/n/x", "/a/ä"],
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("root_path", ["", "/root"])
async def test_the_table_finds_the_route_that_the_application_chooses(path: str, method: str, root_path: str) -> None:
    routers = overlapping()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for router in routers:
        app.include_router(router)
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://localhost{root_path}") as client:
        response = await client.request(method, path)
    scope = {"type": "http", "method": method, "path": root_path + path, "root_path": root_path}
    found = RouteTable(routers).find(scope)
    if response.status_code == 404:
        assert found is None
    elif response.status_code == 405:
        assert found is not None
        assert method not in found.methods
        assert set(response.headers["allow"].split(", ")) == found.methods
    else:
        assert response.status_code == 200
        assert found is not None
        assert found.path == response.json()


def test_a_path_with_a_final_line_feed_matches_no_route() -> None:
    """In a regular expression, ``$`` also matches before a final line feed.

    The path ``/fixed`` with a line feed must not reach the open second route.
    """
    first, second = Router(permission="admin"), Router(permission=None)
    first.add_api_route("/fixed", lambda: None)
    second.add_api_route("/{name}", lambda name: None)
    table = RouteTable([first, second])
    for path, permissions in (("/fixed", ["admin"]), ("/other", [None]), ("/fixed\n", [])):
        found = table.find({"type": "http", "method": "GET", "path": path})
        assert [route.permission for route in (found,) if route] == permissions


def test_a_websocket_finds_only_websocket_routes() -> None:
    table = RouteTable(overlapping())
    found = table.find({"type": "websocket", "path": "/a/1"})
    assert found is not None
    assert (found.path, found.permission, found.methods) == ("/a/{x}", None, frozenset())
    assert table.find({"type": "websocket", "path": "/b/c"}) is None
