"""Triton's Python backend: tensors in and out, response senders, errors. Only this module and ``metrics`` know it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from numpy.typing import NDArray

from contract import heartbeat, lifeline, packed
from contract.chunks import Chunk, IntArray, Job
from contract.errors import InvalidRequest, ServingError, to_wire
from contract.finish import FINISH_CODES
from contract.prompt_part import PromptPart
from contract.seal import Seal
from serving.tokenizer.inputs import PROMPTS, Tensors
from serving.triton import shared_memory, step_log

MOST_VALUES = 65_536  # of an input; each field has its own, lower bound, which names what it counts
MOST_IDS = 4_194_304  # of a prompt; the context is the bound, this only keeps rubbish from being read
MOST_BYTES = 67_108_864  # of an input of texts; no context holds as much, and a copy of it takes 20 ms
MOST_REUSED = 4096  # tensors kept by each thread; each holds about 300 bytes of shared memory
FINISH_NAMES = [name.encode() for name in FINISH_CODES]


def start(name: str) -> None:
    """Log, and tell the launcher which process to watch."""
    step_log.start(name)
    shared_memory.close_to_others()
    run_dir = os.environ.get("RUN_DIR")
    if run_dir:
        (Path(run_dir) / f"{name}.pid").write_text(str(os.getpid()))
        lifeline.hold_on(Path(run_dir))
        heartbeat.start(Path(run_dir) / f"{name}{heartbeat.SUFFIX}")


def ready() -> None:
    """Call it when a step is loaded. What is there now stays, and the collector need not look at it again: a full pass
    over the tokenizer step's objects takes 40 ms, in which none of its threads runs. What loading needed goes back to
    the system: of each of the detokenizer's processes a quarter."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    gc.freeze()


class _Unread:
    """Stands for the texts of an input that is too large to be copied. Triton's stub asks it for a shape."""

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def reshape(self, _: Any) -> NDArray[np.object_]:
        return np.array([[self]], dtype=np.object_)


def _texts(encoded: NDArray[np.uint8]) -> NDArray[np.object_] | _Unread:
    """The texts of a STRING tensor, each behind its length in four bytes.

    The stub calls it for every STRING input of a batch before ``execute``. Triton's own one copies whatever there is,
    text by text: 200 MB, or two million texts in 10 MB, kept the other requests waiting for a second."""
    if len(encoded) > MOST_BYTES:
        return _Unread(f"{len(encoded)} bytes are too many; send at most {MOST_BYTES}")
    data, at = encoded.tobytes(), 0
    texts: list[bytes] = []
    while at < len(data):
        if len(texts) == MOST_VALUES:
            return _Unread(f"more than {MOST_VALUES} values are too many; send fewer")
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        texts.append(data[at + 4 : end])
        at = end
    return np.array(texts, dtype=np.object_)


pb.deserialize_bytes_tensor = _texts


def _array(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = tensor.as_numpy()
    if array.size == 1 and isinstance(array.flat[0], _Unread):
        raise InvalidRequest(tensor.name(), array.flat[0].problem)
    return array


def error(problem: ServingError) -> Any:
    return pb.TritonError(to_wire(problem), getattr(pb.TritonError, problem.triton_code))


def failed(problem: ServingError) -> Any:
    """A response that carries nothing but an error."""
    return pb.InferenceResponse(error=error(problem))


def inputs(request: Any) -> Tensors:
    """All inputs of a request as flat lists. Raises ``InvalidRequest`` for a batch: one request carries one prompt."""
    arrays = {tensor.name(): _array(tensor) for tensor in request.inputs()}
    for name in (*PROMPTS, *arrays):  # Triton gives all inputs the same batch: name the prompt
        if name in arrays and arrays[name].ndim and arrays[name].shape[0] != 1:
            batch = arrays[name].shape[0]
            raise InvalidRequest(name, f"a batch of {batch}; one request carries one prompt, send {batch} requests")
    for name, array in arrays.items():
        if array.size > (most := MOST_IDS if name == "input_ids" else MOST_VALUES):
            raise InvalidRequest(name, f"{array.size} values are too many; send fewer than {most}")
    return {name: array.reshape(-1).tolist() for name, array in arrays.items()}


def parameters(request: Any) -> dict[str, Any]:
    """The request's parameters, where Triton's HTTP /generate puts body fields that are no input's name."""
    raw = request.parameters()
    return json.loads(raw) if len(raw) > len("{}") else {}


def timeout(request: Any) -> int:
    """KServe's request parameter, in microseconds, which Triton only passes on to the steps; 0: none."""
    return int(request.timeout())


def encoded(ids: list[int], job: bytes, seal: Seal) -> Any:
    """The tokenizer step's response: INT32 [1, n] and STRING [1, 1]."""
    return pb.InferenceResponse(
        [
            pb.Tensor("prompt_ids", np.array([ids], dtype=np.int32)),
            pb.Tensor("job", np.array([[seal.job(ids, job)]], dtype=np.object_)),
        ]
    )


def _row(request: Any, name: str) -> Any:
    array = _array(pb.get_input_tensor_by_name(request, name))
    if array.ndim != 2 or len(array) != 1:
        raise InvalidRequest(name, f"a tensor of shape {list(array.shape)}; an inner step takes [1, n]")
    return array[0]


def job(request: Any, seal: Seal) -> tuple[list[int], Job]:
    """The engine step's input. Raises ``InvalidRequest`` for what the tokenizer step of this run did not make."""
    ids = _row(request, "prompt_ids").tolist()
    return ids, Job.from_json(seal.opened_job(ids, bytes(_row(request, "job")[0])))


def chunk_words(request: Any, seal: Seal) -> IntArray:
    """The detokenizer step's input. Raises ``InvalidRequest`` for what the engine step of this run did not make."""
    return seal.opened_chunk(_row(request, "chunk"))


def send(sender: Any, response: Any, final: bool) -> None:
    """One of a decoupled request's responses; from any thread."""
    sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)


def end(sender: Any) -> None:
    """End a decoupled request without another response."""
    sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def send_only(sender: Any, response: Any) -> None:
    """The one response of a request that is not decoupled; from any thread."""
    sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class _Reused(threading.local):
    """Tensors of recurring values (0, 1, 2 …; ""): building one costs more than the rest of a chunk.

    A tensor may be part of many responses: the backend copies it to shared memory once and names that copy. Each thread
    has its own, because that first copy must not be made by two.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, int | bytes], Any] = {}

    def __call__(self, name: str, value: int | bytes) -> Any:
        tensor = self._tensors.get((name, value))
        if tensor is None:
            tensor = pb.Tensor(name, np.array([[value]], dtype=np.object_ if isinstance(value, bytes) else np.int32))
            if len(self._tensors) < MOST_REUSED:
                self._tensors[name, value] = tensor
        return tensor


_reused = _Reused()


def outputs(chunks: list[Chunk]) -> Any:
    """The detokenizer step's response: every tensor is [1, number of sequences], ids and log probs [1, n];
    text_output is [number of sequences], as NVIDIA's postprocessing has it and its clients read it."""
    options = chunks[0].options
    if options.packed:
        return pb.InferenceResponse([pb.Tensor("packed", np.frombuffer(packed.pack(chunks), dtype=np.uint8)[None])])
    tensors = _one(chunks[0]) if len(chunks) == 1 else _several(chunks)
    if options.log_probs:
        tensors += _log_probs(chunks)
    if chunks[0].prompt:
        tensors += _prompt(PromptPart.unpack(chunks[0].prompt))
    return pb.InferenceResponse(tensors)


def _one(c: Chunk) -> list[Any]:
    return [
        pb.Tensor("text_output", np.array([c.text.encode()], dtype=np.object_)),
        pb.Tensor("output_ids", np.array([c.ids], dtype=np.int32)),
        _reused("finish_reason", FINISH_NAMES[c.finish]),
        _reused("prompt_tokens", c.prompt_tokens),
        _reused("completion_tokens", c.completion_tokens),
        _reused("cached_tokens", c.cached_tokens),
        _reused("chunk_index", c.seq - 1),
        _reused("sequence_index", c.sequence_index),
    ]


def _several(chunks: list[Chunk]) -> list[Any]:
    numbers = ("prompt_tokens", "completion_tokens", "cached_tokens", "sequence_index")
    return [
        *(pb.Tensor(name, np.array([[getattr(c, name) for c in chunks]], dtype=np.int32)) for name in numbers),
        pb.Tensor("chunk_index", np.array([[c.seq - 1 for c in chunks]], dtype=np.int32)),
        pb.Tensor("text_output", np.array([c.text.encode() for c in chunks], dtype=np.object_)),
        pb.Tensor("finish_reason", np.array([[FINISH_NAMES[c.finish] for c in chunks]], dtype=np.object_)),
        pb.Tensor("output_ids", np.array([[i for c in chunks for i in c.ids]], dtype=np.int32)),
    ]


def _log_probs(chunks: list[Chunk]) -> list[Any]:
    each = [value for c in chunks for value in c.log_probs]
    tops = b"[" + b",".join(c.top_logprobs[1:-1] for c in chunks if c.top_logprobs) + b"]"
    return [
        pb.Tensor("output_log_probs", np.array([each], dtype=np.float32)),
        pb.Tensor("cum_log_probs", np.array([[c.cum_log_prob for c in chunks]], dtype=np.float32)),
        pb.Tensor("top_log_probs", np.array([[tops]], dtype=np.object_)),
    ]


def _prompt(part: PromptPart) -> list[Any]:
    tensors = [pb.Tensor("prompt_ids", np.array([part.ids], dtype=np.int32))] if part.ids else []
    if part.log_probs:
        tensors += [
            pb.Tensor("prompt_log_probs", np.array([part.log_probs], dtype=np.float32)),
            pb.Tensor("prompt_ranks", np.array([part.ranks], dtype=np.int32)),
            pb.Tensor("prompt_top_log_probs", np.array([[part.tops]], dtype=np.object_)),
        ]
    return tensors


class ResponseSink:
    """``serving.streaming.sequence.Sink`` over a decoupled request's response sender."""

    __slots__ = ("_seal", "_sender")

    def __init__(self, request: Any, seal: Seal) -> None:
        self._seal = seal
        self._sender = request.get_response_sender()

    def send(self, words: IntArray, final: bool) -> None:
        send(self._sender, pb.InferenceResponse([pb.Tensor("chunk", self._seal.chunk(words)[None])]), final)

    def fail(self, error: ServingError) -> None:
        send(self._sender, failed(error), final=True)

    def drop(self) -> None:
        end(self._sender)
