# The server and everything it needs, for a CPU or, with EXTRAS="otel vllm" and a CUDA base, an NVIDIA GPU. From the repository's root:
#   docker build -f deploy/docker/engine.Dockerfile -t qwen-triton-cpu .
#   docker build -f deploy/docker/engine.Dockerfile -t qwen-triton-vllm --build-arg EXTRAS="otel vllm" \
#     --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg PACKAGES="gcc libpython3-dev" .
# Not built by us: no Docker here. vLLM compiles kernels at its first start, hence the compiler and headers.
ARG BASE=debian:12-slim
FROM ${BASE}
ARG PACKAGES="libpython3.11"
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates ${PACKAGES} \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
# Packages first: a change of the code keeps this layer.
COPY pyproject.toml ./
COPY locks locks
COPY serving/launch/bootstrap.py serving/launch/pip.conf serving/launch/
ARG EXTRAS="otel"
# hadolint ignore=SC2086
RUN PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 python3 serving/launch/bootstrap.py ${EXTRAS} \
 && ln -s .venv/bin bin \
 && mkdir -p /models /cache .run \
 && chown 10001:10001 /models /cache .run
COPY versions.toml LICENSE NOTICE ./
COPY contract contract
COPY client client
COPY serving serving
COPY build_engine build_engine
COPY model_repository model_repository
USER 10001:10001
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080 8001
CMD ["/app/bin/python", "-m", "serving", "--engine", "/models/engine", "--host", "0.0.0.0"]
