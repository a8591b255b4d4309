"""The official OpenAI SDK against the gateway.   python examples/openai_sdk.py [URL]

Any Python with ``pip install openai``; nothing of this repository is needed.
"""

import sys

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
sdk = OpenAI(base_url=f"{url}/v1", api_key="none")  # a key when GATEWAY_API_KEYS is set

stream = sdk.chat.completions.create(
    model="qwen",
    messages=[{"role": "user", "content": "Why is the sky blue?"}],
    max_tokens=32,
    stream=True,
    stream_options={"include_usage": True},
    extra_body={"top_k": 20, "repetition_penalty": 1.05},
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    elif chunk.usage:
        print(f"\n[{chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens]")
