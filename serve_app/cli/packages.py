"""The checks of ``sightline doctor`` that look at the installed packages."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from serve_app.cli.findings import Finding, missing, ok

ENGINES = {
    "openvino": "openvino",
    "torch": "torch",
    "onnx": "onnxruntime",
    "tensorrt": "tensorrt",
}  # the package of each engine
EXTRAS = {  # the module that each extra of pyproject.toml installs for the service
    "onnx": "onnxruntime",
    "tensorrt": "tensorrt",
    "int8": "nncf",
    "tracking": "trackers",
    "mqtt": "aiomqtt",
    "redis": "redis",
    "objects": "obstore",
    "parquet": "pyarrow",
    "celery": "celery",
}
_IMPORT_TIMEOUT_S = 60.0


def python() -> Finding:
    """Return the version of Python. Older versions than 3.11 cannot install Sightline."""
    return ok("python", f"{platform.python_version()} ({sys.executable})")


def ray() -> Finding:
    """Check that Ray is installed and can be found."""
    if installed := version_of("ray"):
        return ok("ray", installed)
    return missing("ray", "not installed", "run pip install 'ray[serve]>=2.60,<2.61'")


def engines(needed: set[str]) -> Finding:
    """List the installed engines, and look for those that the config needs."""
    installed = {engine: version_of(package) for engine, package in ENGINES.items()}
    found = ", ".join(f"{engine} {number}" for engine, number in installed.items() if number) or "none"
    if lacking := sorted(engine for engine in needed if engine in installed and not installed[engine]):
        extras = [engine for engine in lacking if engine in EXTRAS]
        fix = _install(extras) if extras else "pip install --force-reinstall sightline"
        return missing("engines", f"{found}, but not {', '.join(lacking)}", f"run {fix}")
    return ok("engines", found)


def extras() -> Finding:
    """List the installed extras. All of them are optional."""
    there = [extra for extra, module in EXTRAS.items() if find_spec(module)]
    lacking = [extra for extra in EXTRAS if extra not in there]
    found = f"{', '.join(there) or 'none'} installed"
    return ok("extras", found + (f"; for the others run {_install(lacking)}" if lacking else ""))


def opencv() -> Finding:
    """Import OpenCV in a separate process. The import fails if the system lacks libGL or GLib."""
    command = [sys.executable, "-P", "-c", "import cv2; print(cv2.__version__)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S, check=False)
    if done.returncode == 0:
        return ok("opencv", done.stdout.strip())
    reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
    return missing("opencv", f"cannot be imported ({reason})", "run apt-get install libgl1 libglib2.0-0")


def version_of(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _install(names: list[str]) -> str:
    return f"pip install 'sightline[{','.join(names)}]'"
