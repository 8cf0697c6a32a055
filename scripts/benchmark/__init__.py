"""The modules of ``scripts/bench.py``: the servers, the load generator, CPU usage by process, and the report."""
