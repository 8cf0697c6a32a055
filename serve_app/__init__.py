"""Sightline: YOLO for images and live video on Ray Serve.

    bytes -> pixels -> model input || batch -> raw output -> Detections -> response

Everything that can fail for one image happens left of ``||``; only valid frames of one shape enter a batch. Packages
import each other in one direction only: ``tests/unit/test_imports.py`` lists which package may import which.
"""

__version__ = "0.2.0"
