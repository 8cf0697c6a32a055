"""Cases from the field: what people's pictures, cameras, models, clients and machines really are.

Each module is one part of the field and has its ``CASES``.
"""
