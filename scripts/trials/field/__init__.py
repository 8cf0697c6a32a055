"""Cases from the field: real-world images, cameras, models, clients and machines.

Each module covers one part of the field and lists its cases in ``CASES``.
"""
