#!/bin/sh
# One streamed answer with curl: events as they arrive (-N turns curl's buffering off).
#   sh examples/curl.sh "Explain paged attention in one sentence"
# GATEWAY and API_KEY name another server and its key.
set -eu
question=$(printf '%s' "${1:-Hello}" | sed 's/\\/\\\\/g; s/"/\\"/g')
curl --silent --show-error --fail-with-body -N "${GATEWAY:-http://127.0.0.1:8080}/v1/chat/completions" \
  -H "Content-Type: application/json" -H "Authorization: Bearer ${API_KEY:-none}" \
  -d "{\"model\": \"qwen\", \"stream\": true, \"max_tokens\": 64, \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}"
