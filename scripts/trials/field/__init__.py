"""Cases of the field trial: real-world images, cameras, models, clients and machines.

Each package or module covers one of these subjects, and lists its cases in ``CASES``.
"""
