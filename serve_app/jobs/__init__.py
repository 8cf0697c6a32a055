"""Batch jobs: the store, the sources, the units of work, the supervision and the runner. It does not depend on Ray."""
