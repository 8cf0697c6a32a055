"""The permission that each route needs: a router declares it, and ``RouteTable`` looks it up.

    routes = Router(permission="detect", tags=["detect"])

``permission`` has no default, so a route cannot be left open by mistake. A route that belongs to no ``Router`` responds
404.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

from fastapi import APIRouter
from starlette._utils import get_route_path  # Starlette's routes use this function, and a copy could differ
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Scope

from serve_app.api.access.keys import Permission, RoutePermission
from serve_app.api.access.protocols import Protocol


class Router(APIRouter):
    """An APIRouter whose routes all need the same permission, or no API key if the permission is None.

    Routes with the permission ``any`` need an API key, whatever its permissions are.

    ``Access`` reads the bodies of requests, within its own size limit. If ``reads_own_body`` is true, the routes read
    the bodies instead. If the routes belong to another server's ``protocol``, it says where else an API key may be, and
    how errors look.
    """

    def __init__(
        self,
        *,
        permission: RoutePermission | None,
        reads_own_body: bool = False,
        protocol: Protocol | None = None,
        **options: Any,
    ) -> None:
        if permission not in (None, "any", *get_args(Permission)):
            raise ValueError(
                f"permission: {permission!r} is unknown; use one of {', '.join(get_args(Permission))}, any, or None"
            )
        super().__init__(**options)
        self.permission: RoutePermission | None = permission
        self.reads_own_body = reads_own_body
        self.protocol = protocol

    def include_router(self, *args: Any, **options: Any) -> NoReturn:
        """Raise TypeError, because the routes of a nested router would get this router's permission."""
        raise TypeError("a Router cannot include another router; include each Router in the application")


@dataclass(frozen=True)
class RouteAccess:
    """A route and the access rules that its router declares."""

    path: str
    pattern: re.Pattern[str]
    methods: frozenset[str]  # empty for a WebSocket route
    permission: RoutePermission | None
    reads_own_body: bool
    protocol: Protocol | None


class RouteTable:
    """A table of all routers' routes, which finds the route that will handle a request."""

    def __init__(self, routers: Iterable[Router]) -> None:
        """Collect the routes of ``routers``. The application must include the routers in the same order."""
        routers = tuple(routers)
        self.routes = tuple(_access_to(route, router) for router in routers for route in router.routes)
        self._http = tuple(route for route in self.routes if route.methods)
        self._websocket = tuple(route for route in self.routes if not route.methods)
        protocols = dict.fromkeys(router.protocol for router in routers)
        self._unknown = tuple(_access_to_unknown(one) for one in protocols if one and one.prefixes)

    def find(self, scope: Scope) -> RouteAccess | None:
        """Return the route that Starlette will choose, or None if no route matches the path.

        Starlette chooses the first route that matches the path and the method. If no route matches both, it chooses the
        first route that matches the path, and that route responds 405. If no route matches a path below the prefixes of
        another server's protocol, return the access rules of such paths, so that the 404 has the protocol's form.
        """
        path = get_route_path(scope)
        is_http = scope["type"] == "http"
        other_method = None
        for route in self._http if is_http else self._websocket:
            match = route.pattern.match(path)
            if match is None:
                continue
            if match.end() != len(path):
                return None  # the pattern's `$` also matches before a final line feed
            if not is_http or scope["method"] in route.methods:
                return route
            other_method = other_method or route
        if other_method is None and is_http:
            return next((unknown for unknown in self._unknown if unknown.pattern.match(path)), None)
        return other_method


def _access_to(route: BaseRoute, router: Router) -> RouteAccess:
    if isinstance(route, Route) and route.methods:
        methods = frozenset(route.methods)
    elif isinstance(route, WebSocketRoute):
        methods = frozenset()
    else:
        raise TypeError(f"{route!r}: a Router may have only WebSocket routes, and HTTP routes that list their methods")
    rules = router.permission, router.reads_own_body, router.protocol
    return RouteAccess(route.path, route.path_regex, methods, *rules)


def _access_to_unknown(protocol: Protocol) -> RouteAccess:
    """Return the access rules for the paths of a protocol that no route matches."""
    pattern = re.compile(f"(?:{'|'.join(protocol.prefixes)})(?:/|$)")
    return RouteAccess("", pattern, frozenset(), None, reads_own_body=False, protocol=protocol)
