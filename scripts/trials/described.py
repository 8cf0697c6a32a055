"""Requests generated from the application's OpenAPI document, with valid and with invalid values."""

from __future__ import annotations

import random
from typing import Any, cast

import requests
import schemathesis
import schemathesis.specs.openapi.schemas  # imported now, because Python 3.11 cannot parse in two threads at once
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from scripts.trials.attacks import TARGET, Attack
from scripts.trials.wire import request

Case = schemathesis.Case[Any]
Operation = APIOperation[Any, Any, Any, Any]

_STARTED = 0.02  # the fraction of created streams that may run; it is low because each stream starts a process
_SOURCES = (  # every source is on this machine, and no server listens at these addresses
    "/etc/passwd", "file:///etc/shadow", "../../../../etc/passwd", "/proc/self/environ", "/dev/zero", "/dev/video99",
    "pipe:0", "concat:/etc/passwd", "subfile,,start,0,end,0,,:/etc/passwd", "data:,x", "http://127.0.0.1:1/",
    "http://[::1", "a\0b", "rtsp://user:secret@127.0.0.1:1/x", "tcp://127.0.0.1:1", "udp://127.0.0.1:1",
    "gopher://127.0.0.1:1/", "\ud800", "~root/x",
)  # fmt: skip


def described(document: dict[str, Any], seed: int, count: int) -> list[Attack]:
    """Return ``count`` attacks spread over all operations of the OpenAPI document."""
    schema = schemathesis.openapi.from_dict(document)
    operations: list[Operation] = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operations.append(result.ok())
    modes = list(schemathesis.GenerationMode)
    cases: list[Case] = []

    @hypothesis_seed(seed)
    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations for mode in modes]))
    def collect(case: Case) -> None:
        cases.append(case)

    collect()
    rng = random.Random(seed)
    return [_attack(case, rng) for case in cases]


def _attack(case: Case, rng: random.Random) -> Attack:
    spares_target = case.method == "DELETE" or case.path.endswith("/pause")
    if "stream_id" in case.path_parameters and not spares_target and rng.random() < 0.5:
        case.path_parameters["stream_id"] = TARGET
    if isinstance(case.body, dict):
        _tame(case.body, rng)
    how = case.as_transport_kwargs(base_url="http://localhost")
    names = ("method", "url", "headers", "params", "data", "json", "files", "cookies")
    prepared = requests.Request(**{name: how[name] for name in names if name in how}).prepare()
    body = cast("str | bytes | None", prepared.body)  # the body is an iterator only if an argument is an iterator
    headers = [(_text(name), _text(value)) for name, value in prepared.headers.items()]
    wire = request(prepared.method or "", prepared.path_url, headers, body.encode() if isinstance(body, str) else body)
    return Attack(f"described: {case.method} {case.path}", (wire,), (prepared.method or "",))


def _tame(spec: dict[str, Any], rng: random.Random) -> None:
    """Change a stream's specification so that the stream reaches no other machine and is usually paused."""
    if isinstance(spec.get("source"), dict) and (rng.random() < 0.5 or "://" in str(spec["source"].get("uri"))):
        spec["source"]["uri"] = rng.choice(_SOURCES)
    for sink in spec["sinks"] if isinstance(spec.get("sinks"), list) else []:
        if isinstance(sink, dict) and "url" in sink:
            scheme = {"webhook": "http", "mqtt": "mqtt"}.get(str(sink.get("type")), "redis")
            sink["url"] = f"{scheme}://user:secret@127.0.0.1:1/"
    if rng.random() > _STARTED:
        spec["paused"] = True


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
