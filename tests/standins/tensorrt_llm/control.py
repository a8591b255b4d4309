"""What a test makes the stand-in do. ``reset()`` before each test."""

import os

STEP_S = 0.002


def reset():
    global \
        script, \
        errors, \
        die_at, \
        silent, \
        queue_limit, \
        hang_on_abort, \
        requests, \
        shutdowns, \
        llms, \
        healthy, \
        unhonoured, \
        stats_seconds, \
        stats_failures, \
        worker_process, \
        guided, \
        guides_ignored
    script = {}  # prompt (tuple) -> tokens it answers, the end token included
    errors = {}  # prompt -> (after how many tokens, message): RequestError
    die_at = {}  # prompt -> after how many tokens the executor dies
    silent = False  # the executor is a zombie: nothing ever comes
    queue_limit = None  # waiting requests before "Maximum queue size" is answered
    hang_on_abort = False  # abort() is sent and nothing follows
    requests = []  # keywords of every generate_async
    shutdowns = 0
    llms = []  # every LLM that was made
    healthy = True
    stats_seconds = 0.0  # how long get_stats blocks
    stats_failures = 0  # so many calls of get_stats end in RPCTimeout
    worker_process = bool(os.environ.get("STANDIN_TRTLLM_WORKER"))  # the LLM talks to a process, by ZMQ PAIR sockets
    guided = {}  # field of GuidedDecodingParams -> tokens that a guided request answers
    guides_ignored = False  # as a sampler that masks nothing
    unhonoured = []  # what the default TorchSampler of 1.2.1 would have ignored in silence


reset()
