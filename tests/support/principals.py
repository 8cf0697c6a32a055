"""The clients of tests: without API keys, with keys of two owners, and with an administrator's key."""

from __future__ import annotations

from serve_app.types import Principal

LOCAL = Principal("", is_admin=True)  # without API keys
DOCK = Principal("dock", is_admin=False)
YARD = Principal("yard", is_admin=False)
ADMIN = Principal("admin", is_admin=True)
