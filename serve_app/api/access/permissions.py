"""Which permission each route needs: a router declares it, and ``RouteTable`` derives the map.

    routes = Router(permission="detect", tags=["detect"])

There is no default, so that no route is open because somebody forgot it; a route of no such router is answered 404.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

from fastapi import APIRouter
from starlette._utils import get_route_path  # as Starlette's own routes: a copy of ours could come to differ from it
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Scope

from serve_app.api.access.keys import Permission


class Router(APIRouter):
    """An APIRouter all of whose routes need one permission: None opens them to everybody.

    Access reads the body of a request, within a limit of its own, unless ``reads_own_body`` says that the routes do.
    """

    def __init__(self, *, permission: Permission | None, reads_own_body: bool = False, **options: Any) -> None:
        if permission not in (None, *get_args(Permission)):
            raise ValueError(f"there is no permission {permission!r}: they are {', '.join(get_args(Permission))}")
        super().__init__(**options)
        self.permission: Permission | None = permission
        self.reads_own_body = reads_own_body

    def include_router(self, *args: Any, **options: Any) -> NoReturn:
        """Refuse: the other router's routes would take this one's permission."""
        raise TypeError("include each router in the application itself, so that its own permission holds")


@dataclass(frozen=True)
class RouteAccess:
    """A route, and what its router declared."""

    path: str
    pattern: re.Pattern[str]
    methods: frozenset[str]  # empty: it is a WebSocket's
    permission: Permission | None
    reads_own_body: bool


class RouteTable:
    """Finds the route that will answer a request, before the request reaches it."""

    def __init__(self, routers: Iterable[Router]) -> None:
        """``routers``, in the order in which the application includes them, without a prefix."""
        self.routes = tuple(_access_to(route, router) for router in routers for route in router.routes)
        self._http = tuple(route for route in self.routes if route.methods)
        self._websocket = tuple(route for route in self.routes if not route.methods)

    def find(self, scope: Scope) -> RouteAccess | None:
        """Return the route that Starlette will choose: the first one of this path that takes the request's method, or
        else the first one of this path, which will answer 405. None where there is no route.
        """
        path = get_route_path(scope)
        is_http = scope["type"] == "http"
        of_another_method = None
        for route in self._http if is_http else self._websocket:
            match = route.pattern.match(path)
            if match is None:
                continue
            if match.end() != len(path):
                return None  # `$` also matches before a last line feed: such a path is no route's
            if not is_http or scope["method"] in route.methods:
                return route
            of_another_method = of_another_method or route
        return of_another_method


def _access_to(route: BaseRoute, router: Router) -> RouteAccess:
    if isinstance(route, Route) and route.methods:
        methods = frozenset(route.methods)
    elif isinstance(route, WebSocketRoute):
        methods = frozenset()
    else:
        raise TypeError(f"{route!r}: a Router takes routes with methods and WebSocket routes, and nothing else")
    return RouteAccess(route.path, route.path_regex, methods, router.permission, router.reads_own_body)
