"""The benchmark behind ``scripts/bench.py``: the servers, the load generator, CPU by process, and the report."""
