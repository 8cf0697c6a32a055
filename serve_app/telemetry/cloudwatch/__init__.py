"""Counts for Amazon CloudWatch, as documents in the Embedded Metric Format.

We do not use AWS's library for this format, because it asks metadata addresses where it runs.
"""
