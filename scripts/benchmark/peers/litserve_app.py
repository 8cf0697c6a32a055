"""A LitServe server for an Ultralytics model. It follows LitServe's documentation and uses dynamic batching."""

import os
import sys

import cv2
import litserve
import numpy as np


class Detect(litserve.LitAPI):
    def setup(self, device):
        if os.environ["ENGINE"] != "null":
            import precision  # noqa: F401
            from ultralytics import YOLO

            self.model = YOLO(os.environ["WEIGHTS"], task="detect")

    def decode_request(self, request):
        return cv2.imdecode(np.frombuffer(request["file"].file.read(), np.uint8), cv2.IMREAD_COLOR)

    def batch(self, pictures):
        return pictures

    def predict(self, pictures):
        if os.environ["ENGINE"] == "null":
            return [None] * len(pictures)
        return [self.model.predict(picture, imgsz=640, conf=0.5, verbose=False)[0] for picture in pictures]

    def unbatch(self, results):
        return results

    def encode_response(self, result):
        if result is None:
            return {"detections": []}
        return {
            "detections": [
                {"label": result.names[int(label)], "confidence": confidence, "box": box}
                for box, confidence, label in zip(
                    result.boxes.xyxy.tolist(), result.boxes.conf.tolist(), result.boxes.cls.tolist(), strict=True
                )
            ]
        }


if __name__ == "__main__":
    api = Detect(max_batch_size=8, batch_timeout=0.005, api_path="/detect")
    litserve.LitServer(api, accelerator="cpu", healthcheck_path="/readyz").run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
