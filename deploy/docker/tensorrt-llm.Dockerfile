# The code on NVIDIA's image. BASE is what `make engine` builds first, build_engine/Dockerfile.tensorrt_llm:
#   docker build -f deploy/docker/tensorrt-llm.Dockerfile --build-arg BASE=qwen-triton-trtllm:1.2.1 -t qwen-triton-tensorrt-llm .
# Not built by us: no Docker here.
ARG BASE
FROM ${BASE}
WORKDIR /app
RUN mkdir -p /app/bin /app/.run /models /cache \
 && ln -s "$(command -v python3)" /app/bin/python \
 && chown 10001:10001 /app/.run /models /cache
COPY versions.toml LICENSE NOTICE ./
COPY contract contract
COPY client client
COPY serving serving
COPY build_engine build_engine
COPY model_repository model_repository
USER 10001:10001
ENV HOME=/tmp USER=qwen PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080 8001
CMD ["/app/bin/python", "-m", "serving", "--engine", "/models/engine", "--host", "0.0.0.0"]
