"""A mosec server for an Ultralytics model. It decodes in a separate process and uses dynamic batching."""

import os

import cv2
import mosec
import numpy as np


class Decode(mosec.Worker):
    def deserialize(self, data):
        return data

    def forward(self, data):
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


class Detect(mosec.Worker):
    def __init__(self):
        if os.environ["ENGINE"] != "null":
            import precision  # noqa: F401
            from ultralytics import YOLO

            self.model = YOLO(os.environ["WEIGHTS"], task="detect")
            self.model.predict(np.zeros((640, 640, 3), np.uint8), verbose=False)

    def forward(self, pictures):
        if os.environ["ENGINE"] == "null":
            return [{"detections": []} for _ in pictures]
        results = [self.model.predict(picture, imgsz=640, conf=0.5, verbose=False)[0] for picture in pictures]
        return [
            {
                "detections": [
                    {"label": result.names[int(label)], "confidence": confidence, "box": box}
                    for box, confidence, label in zip(
                        result.boxes.xyxy.tolist(), result.boxes.conf.tolist(), result.boxes.cls.tolist(), strict=True
                    )
                ]
            }
            for result in results
        ]


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(Decode, num=1, route="/detect")
    server.append_worker(Detect, num=1, max_batch_size=8, max_wait_time=5, route="/detect")
    server.run()
