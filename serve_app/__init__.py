"""Sightline: YOLO detection for images and live video on Ray Serve.

    bytes -> pixels -> model input || batch -> raw output -> Detections -> response

Everything that can fail for one picture happens left of ``||``; only valid, same-shaped frames enter a batch.
Read the modules in this order; each imports only from those before it:

    errors  types  config  keys  letterbox  decode  drawing  frames  postprocess  engines/  models  batcher
    schemas  telemetry  api/  serving  streams/  deployments  app
"""
