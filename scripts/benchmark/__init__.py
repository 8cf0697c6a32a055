"""The benchmark behind ``scripts/bench.py``: contenders, load, CPU by process, report."""
