"""Sightline: YOLO for images and live video on Ray Serve.

    bytes -> pixels -> model input || batch -> raw output -> Detections -> response

All steps that can fail on a bad image are to the left of ``||``. Only valid frames of the same shape are batched.
Packages import each other in one direction only. ``tests/unit/test_imports.py`` lists the allowed imports.
"""

__version__ = "0.2.0"
