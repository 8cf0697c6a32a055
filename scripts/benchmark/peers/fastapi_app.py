"""A FastAPI server for an Ultralytics model, written in the usual way."""

import os

import cv2
import numpy as np
from fastapi import FastAPI, UploadFile

app = FastAPI()
if os.environ["ENGINE"] != "null":
    import precision  # noqa: F401
    from ultralytics import YOLO

    model = YOLO(os.environ["WEIGHTS"], task="detect")
    model.predict(np.zeros((640, 640, 3), np.uint8), verbose=False)


@app.get("/readyz")
def ready():
    return {}


@app.post("/detect")
def detect(file: UploadFile):
    picture = cv2.imdecode(np.frombuffer(file.file.read(), np.uint8), cv2.IMREAD_COLOR)
    if os.environ["ENGINE"] == "null":
        return {"detections": []}
    result = model.predict(picture, imgsz=640, conf=0.5, verbose=False)[0]
    return {
        "detections": [
            {"label": result.names[int(label)], "confidence": confidence, "box": box}
            for box, confidence, label in zip(
                result.boxes.xyxy.tolist(), result.boxes.conf.tolist(), result.boxes.cls.tolist(), strict=True
            )
        ]
    }
