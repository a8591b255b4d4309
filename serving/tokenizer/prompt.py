"""A prompt's token ids: from messages, text or the ids themselves. Chat template, tokenizer, context check."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from contract import context
from contract.chunks import Job
from contract.engine_dir import REBUILD, EngineInfo
from contract.errors import EngineDirectoryError, InvalidRequest, shown
from contract.sampling import Sampling
from serving.tokenizer.encoder import Encoder
from serving.tokenizer.inputs import PROMPTS, CheckpointDefaults, Inputs, Tensors
from serving.tokenizer.messages import json_list, message
from serving.tokenizer.plain_text import PlainText
from serving.tokenizer.request import job
from serving.tokenizer.template import ChatTemplate
from serving.tokenizer.tools import tool_list

MAX_MESSAGES = 2048
MAX_JSON = 8 * 2**20  # bytes of messages or of tools
MOST_SCORES = 262_144  # of a prompt's tokens and their alternatives
SHRINKS = 3  # times at most that Unicode's NFC makes a text shorter, in bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the tokenizer step hands to the engine step."""

    ids: list[int]
    job: Job


class PromptBuilder:
    """The tokenizer step without Triton. ``encoder``: the engine's, if it is loaded already: loading one takes up to a
    second and holds the GIL. Raises ``EngineDirectoryError`` for a chat template that renders nothing."""

    def __init__(self, engine: EngineInfo, encoder: Encoder | None = None) -> None:
        self._encoder = encoder or Encoder(engine.path / "tokenizer.json")
        self._plain = PlainText(self._encoder)
        self._limits = engine.limits
        self._checkpoint = CheckpointDefaults.load(engine.path / "generation_config.json", engine.model.vocab_size)
        self._template = _template(engine)

    def check_size(self, tensors: Tensors) -> None:
        """Refuse what is certainly too long by its size alone, before any work. Raises ``InvalidRequest``."""
        for text in tensors.get("text_input", ())[:1]:
            self._check_length(text if isinstance(text, bytes) else str(text).encode(), "text_input")
        for name in ("messages", "tools"):
            length = len(next(iter(tensors.get(name, ())), b""))
            if length > MAX_JSON:
                raise InvalidRequest(name, f"{length} bytes of JSON are too many; send at most {MAX_JSON}")
        cut = len(tensors.get("truncate_prompt_tokens", ()))
        if not cut and (ids := len(tensors.get("input_ids", ()))) > self._limits.max_input_len:
            raise context.too_long(self._limits, "input_ids", str(ids))
        if (ids := len(tensors.get("resume_ids", ()))) > self._limits.max_seq_len:
            problem = f"{ids} tokens exceed the context of {self._limits.max_seq_len}; send what the answer had"
            raise InvalidRequest("resume_ids", problem)

    def _check_length(self, text: bytes, field: str) -> None:
        """Raises ``ContextTooLong`` for a text that exceeds the context however well it compresses: no token stands
        for more bytes than the longest one, and NFC, which comes first, leaves a third of the bytes at least."""
        densest = self._encoder.longest_token * (1 if text.isascii() else SHRINKS)
        least = -(-len(text) // densest)
        if least > self._limits.max_input_len:
            raise context.too_long(self._limits, field, f"at least {least}")

    def encode(self, tensors: Tensors) -> Encoded:
        """One request. Raises ``ServingError`` naming the input at fault."""
        self.check_size(tensors)
        inputs = Inputs(tensors, self._checkpoint)
        if inputs.flag("stop"):
            stop = Job(Sampling(max_tokens=1), cancel=True, stop_key=inputs.text("stop_key"))
            return Encoded(self._encoder.encode("stop"), stop)
        field = _prompt_field(inputs)
        text = self._text(inputs, field)
        parsed = self._with_biases(inputs, self._with_words(inputs, job(inputs, self._checkpoint)))
        _check_allowed(parsed.sampling)
        ids = list(inputs.integers("input_ids")) if field == "input_ids" else self._encoded(text, field)
        if field == "text_input":  # a template writes the special tokens that begin a text itself
            ids = self._encoder.begun(ids)
        whole, ids = len(ids), self._truncated(inputs, ids, parsed.sampling.max_tokens)
        context.room(self._limits, field, len(ids), parsed.sampling.max_tokens)
        _check_scores(len(ids), parsed.sampling.prompt_logprobs)
        if not inputs.flag("exclude_input_in_output"):
            has_text = field != "input_ids" and len(ids) == whole
            echo = self._plain.resolved(text) if has_text else self._encoder.decode(ids)
            parsed = replace(parsed, text=replace(parsed.text, echo=echo))
        return Encoded(ids, parsed)

    def _truncated(self, inputs: Inputs, ids: list[int], max_tokens: int) -> list[int]:
        """What ``truncate_prompt_tokens`` leaves, counted with the template's tokens, as in vLLM."""
        side = inputs.text("truncation_side")
        if side not in ("left", "right"):
            raise InvalidRequest("truncation_side", f"{shown(side)} is unknown; use left or right")
        if "truncate_prompt_tokens" not in inputs:
            return ids
        most = inputs.integer("truncate_prompt_tokens")
        if most == 0:
            raise InvalidRequest("truncate_prompt_tokens", "0 leaves nothing of the prompt; give at least 1, or -1")
        if most < 0:  # of an answer as long as the context, `room` tells
            most = max(1, context.longest_prompt(self._limits, max_tokens))
        return ids[:most] if side == "right" else ids[-most:]

    def _text(self, inputs: Inputs, field: str) -> str:
        """The prompt's text, rendered; "" for one that came as ids."""
        if field == "messages":
            return self._render(inputs)
        for name in ("tools", "add_generation_prompt", "continue_final_message", "parse_special"):
            if name in inputs:
                raise InvalidRequest(name, f"needs messages (the chat template renders it); {field} is sent as it is")
        text = inputs.text("text_input")
        if field == "text_input" and not text:
            raise InvalidRequest("text_input", "the prompt is empty; send at least one character")
        return text

    def _render(self, inputs: Inputs) -> str:
        messages = [message(i, m) for i, m in enumerate(json_list("messages", inputs.text("messages")))]
        if not messages:
            raise InvalidRequest("messages", "the list is empty; send at least one message")
        if len(messages) > MAX_MESSAGES:
            raise InvalidRequest("messages", f"{len(messages)} messages are too many; send at most {MAX_MESSAGES}")
        tools = tool_list(inputs.text("tools")) if "tools" in inputs else None
        if not inputs.flag("parse_special"):
            messages, tools = self._plain.masked(messages), self._plain.masked(tools)
        goes_on = inputs.flag("continue_final_message")
        last = messages[-1]
        open_end = last["role"] == "assistant" and not last.get("tool_calls")
        if goes_on and (inputs.flag("add_generation_prompt") or not open_end):
            raise InvalidRequest(
                "continue_final_message",
                "true needs a last message of the assistant without tool_calls, and add_generation_prompt false; "
                "send both, or leave this out",
            )
        opens = inputs.flag("add_generation_prompt") if "add_generation_prompt" in inputs else not goes_on
        return _characters("messages", self._template.render(messages, tools, opens, goes_on))

    def _with_words(self, inputs: Inputs, parsed: Job) -> Job:
        """Bad words as ids, alone and after a space: a word inside a text mostly carries its leading space."""
        words = inputs.texts("bad_words")
        if not words:
            return parsed
        variants = [form for word in words for form in (word, " " + word.lstrip())]
        ids = {tuple(self._encoder.encode(form)) for form in variants}
        return replace(parsed, sampling=replace(parsed.sampling, bad_words=tuple(sorted(ids))))

    def _with_biases(self, inputs: Inputs, parsed: Job) -> Job:
        """``embedding_bias_words`` as NVIDIA's preprocessing reads them: every token of a word gets the weight."""
        words, weights = inputs.texts("embedding_bias_words"), inputs.numbers("embedding_bias_weights")
        if len(words) != len(weights):
            problem = f"{len(weights)} weights for {len(words)} words; send one for each"
            raise InvalidRequest("embedding_bias_weights", problem)
        if not words:
            return parsed
        biases = defaultdict(float, parsed.sampling.logit_bias)
        for word, weight in zip(words, weights, strict=True):
            for token in self._encoder.encode(word):
                biases[token] += weight
        return replace(parsed, sampling=replace(parsed.sampling, logit_bias=tuple(biases.items())))

    def _encoded(self, text: str, field: str) -> list[int]:
        self._check_length(text.encode(), field)
        return self._plain.encode(text)


def _check_allowed(sampling: Sampling) -> None:
    """An engine that may choose no token chooses any: vLLM the first of its vocabulary."""
    forbidden = {word[0] for word in sampling.bad_words if len(word) == 1}
    forbidden |= set(sampling.stop_token_ids if sampling.min_tokens else ())
    if sampling.allowed_token_ids and forbidden.issuperset(sampling.allowed_token_ids):
        raise InvalidRequest("allowed_token_ids", "bad_words and min_tokens forbid all of them; leave one of these out")


def _check_scores(prompt_tokens: int, wanted: int) -> None:
    """Scores of a prompt travel in a few large messages, which would hold up their reader's other streams."""
    if wanted > 1 and prompt_tokens * wanted > MOST_SCORES:
        most = MOST_SCORES // prompt_tokens - 1
        problem = f"{wanted - 1} for each of {prompt_tokens} tokens are too many; give at most {max(0, most)}"
        raise InvalidRequest("prompt_top_logprobs", problem)


def _prompt_field(inputs: Inputs) -> str:
    """Which input holds the prompt."""
    given = [name for name in PROMPTS if name in inputs]
    if len(given) != 1:
        problem = f"given beside {given[1]}" if given else "missing"
        raise InvalidRequest(
            given[0] if given else "text_input", f"{problem}; send exactly one of text_input, messages and input_ids"
        )
    return given[0]


def size(tensors: Tensors) -> int:
    """Bytes of a request's inputs, roughly: what it costs to read them."""
    return sum(len(v) if isinstance(v, (bytes, str)) else 8 for values in tensors.values() for v in values)


def _characters(name: str, text: str) -> str:
    """``text``, unless JSON escapes put half a surrogate pair into it: the encoder would read it as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = shown(text[error.start])
        raise InvalidRequest(name, f"{bad} is half a surrogate pair, not a character; send valid Unicode") from None
    return text


def _template(engine: EngineInfo) -> ChatTemplate:
    """An operator may edit it: one that refuses an ordinary message is no fault of a request's."""
    template = ChatTemplate.load(engine.path, engine.model.name)
    try:
        if template.exists:
            template.check()
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        raise EngineDirectoryError(
            f"the chat template of {engine.path} refuses a user's message ({error}): correct it, or {REBUILD}"
        ) from None
    return template
