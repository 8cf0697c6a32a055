"""A shop that sends its images through Celery. It needs only `pip install 'celery[redis]'`, and nothing of Sightline.

Run `python shop.py s3://dock/1.jpg /media/2.jpg`. BROKER and BACKEND are the URLs that the server has in
SERVE_APP_JOBS_CELERY_BROKER_URL and SERVE_APP_JOBS_CELERY_BACKEND_URL.
"""

import os
import sys

from celery import Celery, group
from celery.canvas import Signature

shop = Celery(broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
tasks: list[Signature] = [
    shop.signature("sightline.detect.v1", kwargs={"url": url, "confidence": 0.4}, queue="sightline")
    for url in sys.argv[1:]
]
for url, result in zip(sys.argv[1:], group(tasks)().get(timeout=300, propagate=False), strict=True):
    if isinstance(result, Exception):
        print(url, "failed:", result)
    else:
        print(url, ", ".join(f"{one['label']} {one['confidence']:.2f}" for one in result["detections"]) or "nothing")
