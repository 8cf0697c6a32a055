"""Stage: run the tests of the engines, of the batcher, and those that are skipped without a GPU."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

from scripts.gpu_day.stage import Plan, Record
from scripts.launch import ROOT

_TESTS = ("tests/unit/models/engines", "tests/unit/inference", "tests/parity/test_weights.py")
_SMALL = ("tests/unit/inference/test_batch_size.py",)
# The cases of test_weights.py that need no GPU would take too long. OpenVINO, which runs on CPUs only, may be missing.
_SELECTION = (
    "-k", "not (test_weights and (openvino or onnx or auto))", "--ignore=tests/unit/models/engines/test_openvino.py",
)  # fmt: skip
_SHOWN = 1500  # characters


def run(plan: Plan, record: Record) -> None:
    """Add the number of passed tests, and the tests that failed or were skipped. Raise SystemExit if one failed.

    If pytest cannot start, add the end of its output.
    """
    report = plan.folder / "unit_tests.xml"
    report.unlink(missing_ok=True)
    tests = _SMALL if plan.is_small else _TESTS
    workers = "0" if plan.is_small else "8"
    options = ["-q", "-p", "no:cacheprovider", "-n", workers, *_SELECTION, f"--junitxml={report}"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=ROOT, check=False)
    if not report.exists():
        log = (plan.folder / f"{plan.stage}.log").read_text(errors="replace")
        record.add(tests=0, status=done.returncode, reason=log[-_SHOWN:])
        sys.exit(done.returncode or 1)
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    record.add(tests=len(cases), passed=len(cases) - len(failed) - len(skipped), status=done.returncode)
    for kind, found in (("failed", failed), ("skipped", skipped)):
        for case in found:
            reason = next((part.get("message", "") for part in case if part.tag in ("failure", "error", "skipped")), "")
            record.add(outcome=kind, test=f"{case.get('classname')}.{case.get('name')}", reason=reason[:500])
    sys.exit(done.returncode)
