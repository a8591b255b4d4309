"""The metrics page of a fake Triton."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.client.fake_triton import FakeTriton


class MetricsServer(ThreadingHTTPServer):
    """A client that left is nothing to report: two threads that print tracebacks at once have crashed pytest."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def metrics_handler(fake: FakeTriton) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (
                "# HELP vllm:num_requests_running Sequences being decoded\n# TYPE vllm:num_requests_running gauge\n"
                f'vllm:num_requests_running{{model="engine"}} {len(fake.live)}\n'
                f"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting {fake.waiting}\n"
                f"# TYPE qwen_honours_cache_salt gauge\nqwen_honours_cache_salt {fake.salted}\n"
                f"# TYPE qwen_max_streams gauge\nqwen_max_streams {fake.places}\n"
                "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc 0.25\n"
                "# TYPE qwen_slots_total gauge\nqwen_slots_total 256\n"
                "# TYPE qwen_streams_finished_total counter\n"
                f'qwen_streams_finished_total{{reason="stop"}} {fake.finished_total}\n'
                "# TYPE nv_inference_count counter\nnv_inference_count 5\n"
            ).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    return Handler
