# Sightline, run by a user without rights, on a CPU:
#   docker build -t sightline .
#   docker run --init --shm-size=1g --stop-timeout=90 -p 8000:8000 \
#     -v "$PWD/keys:/run/secrets/sightline:ro" sightline       # a folder with keys.yaml: see the README
# or on NVIDIA GPUs: --build-arg TORCH_BACKEND= brings CUDA's libraries (4 GB), and the host its driver. See "Containers
# and Kubernetes" in the README, which also says what of this was tried.

# The Python that the tests are run with.
FROM python:3.11-slim-bookworm AS base
# OpenCV is linked with libGL and libgthread, of which the slim image has neither; Debian's libgl1 brings Mesa and LLVM,
# 350 MB in all. HAProxy comes with Ray, as a wheel that brings its own libraries, and FFmpeg with PyAV.
# Debian keeps no old versions: a pinned one could not be had for long.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/*

FROM base AS builder
RUN pip install --no-cache-dir uv==0.13.9 && python -m venv /opt/sightline
WORKDIR /build

# What changes rarely, as one layer: all that pyproject.toml asks for, in the versions that were tested.
FROM builder AS dependencies
COPY pyproject.toml configs/constraints.txt ./
# cpu: PyTorch's own wheels without CUDA; nothing: PyPI's, which bring it.
ARG TORCH_BACKEND=cpu
# The extras are those of streams. As bytecode: whoever runs it may not write beside it.
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

# A volume belongs there: what models were exported to, and which streams there are to be.
RUN useradd --create-home --uid 1000 sightline \
 && install --directory --owner=sightline /var/lib/sightline
USER 1000
WORKDIR /home/sightline
ENV PATH=/opt/sightline/bin:$PATH \
    SERVE_APP_CACHE_DIR=/var/lib/sightline/cache \
    SERVE_APP_STATE_DIR=/var/lib/sightline/state

# configs/serve.env, where every flag is explained: no shell runs that could source it. A test compares the two.
ENV RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_HAPROXY_NBTHREAD=2 \
    RAY_SERVE_HAPROXY_BINARY_PATH=/opt/sightline/share/sightline/configs/haproxy.py \
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
# A warm model answers, whatever proxy the container has. An export at the first start takes 38 s for a nano model on 2 cores.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "from urllib.request import *; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=4)"]
# No shell between: SIGTERM reaches what drains.
ENTRYPOINT ["python", "-m", "serve_app"]
CMD ["/opt/sightline/share/sightline/configs/container.yaml"]
