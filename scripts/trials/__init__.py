"""Trials that break, change or attack a running service, and check what its users notice.

Run ``python -m scripts.trials --help`` for the list.
"""
