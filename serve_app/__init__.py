"""Sightline: YOLO for images and live video on Ray Serve.

    bytes -> pixels -> model input || batch -> raw output -> Detections -> response

Everything that can fail for one picture happens left of ``||``; only valid frames of one shape enter a batch. Imports
point one way between the packages: ``tests/unit/test_imports.py`` has the plan.
"""

__version__ = "0.2.0"
