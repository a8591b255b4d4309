"""The executor: one thread, a token per active request and step."""

import threading
import time
from pathlib import Path

from tokenizers import Tokenizer

from . import control
from ._result import failure, fatal, logprobs_of

WORD, END = "zqxjkv", 151645


def answer(prompt, seed, position):
    """Deterministic, seed-dependent tokens below 1000."""
    return (sum(prompt) * 31 + (seed or 0) * 7 + position * 13) % 1000


def guided(guide):
    """The answer that ``control.guided`` has for this kind of guide; a regex of one word is answered by the word."""
    if guide is not None and guide.regex == WORD and not control.guides_ignored:
        tokenizer = Tokenizer.from_file(str(Path(control.llms[-1].args.tokenizer) / "tokenizer.json"))
        return [*tokenizer.encode(WORD).ids, END]
    given = [tokens for field, tokens in control.guided.items() if guide is not None and getattr(guide, field)]
    return given[0] if given else None


class Executor(threading.Thread):
    def __init__(self, max_batch_size, keeps_end, entries):
        super().__init__(daemon=True)
        self.lock, self.requests, self.cancelled = threading.Lock(), {}, set()
        self.max_batch_size, self.keeps_end, self.entries = max_batch_size, keeps_end, entries
        self.iterations, self.dead, self.stopped = 0, False, False
        self.start()

    def add(self, result, params):
        with self.lock:
            waiting = len(self.requests) - self.max_batch_size
            if control.queue_limit is not None and waiting >= control.queue_limit:
                result._put(failure(f"Maximum queue size of {control.queue_limit} has been reached, please try again"))
                return
            self.requests[result.request_id] = [result, params, 0]

    def cancel(self, request_id):
        with self.lock:
            self.cancelled.add(request_id)

    def run(self):
        while not self.stopped:
            time.sleep(control.STEP_S)
            with self.lock:
                if control.silent or self.dead:
                    continue
                self.iterations += bool(self.requests)
                for key in list(self.requests)[: self.max_batch_size]:
                    if self.step(*self.requests[key]):
                        del self.requests[key]
                    else:
                        self.requests[key][2] += 1

    def step(self, result, params, position):
        """One token; True when the request is over."""
        prompt = tuple(result.prompt_token_ids)
        if result.request_id in self.cancelled:
            if not control.hang_on_abort:
                result._put(item([], "cancelled"))
            return True
        if control.errors.get(prompt, (None,))[0] == position:
            result._put(failure(control.errors[prompt][1]))
            return True
        if control.die_at.get(prompt) == position:
            self.dead = True
            result._put(fatal("CUDA error: an illegal memory access was encountered"))
            return True
        script = guided(params.guided_decoding) or control.script.get(prompt)
        seed = 0 if params.top_k == 1 else params.seed  # greedy
        token = script[position] if script else answer(prompt, seed, position)
        return self.send(result, params, token, position)

    def send(self, result, params, token, position):
        count = min(params.logprobs or 0, self.entries)
        probability = [logprobs_of(token, count)] if count else []
        end = token == params.end_id and not params.ignore_eos and position >= (params.min_tokens or 0)
        if end:
            kept = [token] if self.keeps_end else []
            result._put(item(kept, "stop", probability if kept else []))
        elif token in (params.stop_token_ids or ()):
            result._put(item([token], "stop", probability, stop_reason=token, trim=1))
        elif position + 1 >= params.max_tokens:
            result._put(item([token], "length", probability))
        else:
            result._put(item([token], None, probability))
            return False
        return True


def item(tokens, reason, logprobs=(), stop_reason=None, trim=0):
    return {"tokens": tokens, "reason": reason, "logprobs": list(logprobs), "stop_reason": stop_reason, "trim": trim}
