"""Every input of the ensemble ``qwen``, one row each. ``make fields`` writes what is derived from here.

Written into files by ``contract/generate.py``: the inputs in both ``config.pbtxt``, the scalar settings of
``Sampling``, the client's ``Options``, the gateway's shared fields, ``docs/fields.md`` and the tables of
``docs/gateway.md``. Looked up while running: parsing and range checks (tokenizer step), capabilities (runtimes),
tensors (client), renaming (gateway).

To add a sampling setting: a row with ``sampling=True``, ``make fields``, and in each runtime that honours it the line
that reads ``Sampling.<name>`` and the name of its capability. ``tests/contract/test_new_field.py`` does exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tensor = Literal["STRING", "INT32", "UINT64", "FP32", "BOOL"]
Value = bool | int | float | str | tuple[()]
Bound = float | Literal["last_token_id"]  # known when a checkpoint is loaded
Endpoints = Literal["all", "chat and completions", "chat", ""]

INT32_MAX = 2**31 - 1
PYTHON_TYPES: dict[Tensor, str] = {"STRING": "str", "INT32": "int", "UINT64": "int", "FP32": "float", "BOOL": "bool"}
ZERO: dict[Tensor, Value] = {"STRING": "", "INT32": 0, "UINT64": 0, "FP32": 0.0, "BOOL": False}


@dataclass(frozen=True, slots=True)
class Option:
    """The field in the client's ``Options``. ``annotation`` where its type differs from the tensor's.

    ``in_chat``: a conversation in the terminal can have it (``/set``); it shows one text and no log probabilities.
    """

    name: str = ""  # the tensor's unless given
    default: Value | None = None
    annotation: str = ""
    in_chat: bool = True


@dataclass(frozen=True, slots=True)
class Api:
    """The field in the OpenAI gateway.

    ``endpoints`` says which request classes get it from here; with "" they declare it themselves, because its type
    differs from one endpoint to the next. ``openai``: OpenAI has the field too; every field here is one of vLLM's.
    ``note`` replaces ``Field.about`` in docs/gateway.md.
    """

    name: str = ""  # the tensor's unless given
    endpoints: Endpoints = "all"
    openai: bool = False
    annotation: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One input. Scalars have dims [1], a ``repeated`` one has [-1] (Triton adds the batch dimension 1 in front).

    ``default`` is used when the caller sends nothing, and sending it changes nothing, so it needs no capability; None:
    see ``about``. With ``checkpoint`` the default comes from generation_config.json and ``default`` means "off".
    ``low`` and ``high`` are inclusive (``above_low``: low is not) and hold for each value of a repeated field, which
    has at most ``most`` values of at most ``longest`` characters; an empty one is as if it had not been sent, or
    refused with ``filled``. ``aliases`` are further tensor names of the field.
    ``capability`` is what a runtime must have for it. ``sampling``: it goes to the runtime as ``Sampling.<name>``.
    """

    name: str
    tensor: Tensor
    about: str
    default: Value | None = None
    low: Bound | None = None
    high: Bound | None = None
    above_low: bool = False
    repeated: bool = False
    filled: bool = False
    most: int | None = None
    longest: int | None = None
    checkpoint: bool = False
    sampling: bool = False
    capability: str = ""
    option: Option | None = None
    api: Api | None = None
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def option_name(self) -> str:
        """What the client's ``Options`` call it; "" when they do not have it."""
        return (self.option.name or self.name) if self.option else ""

    @property
    def api_name(self) -> str:
        """What the gateway calls it; "" when it does not have it."""
        return (self.api.name or self.name) if self.api else ""

    @property
    def absent(self) -> Value:
        """What reading it gives when the caller sent nothing and there is no default."""
        if self.default is not None:
            return self.default
        return () if self.repeated else ZERO[self.tensor]


# fmt: off
FIELDS: tuple[Field, ...] = (
    Field("text_input", "STRING", "raw prompt; send this, `messages` or `input_ids`"),
    Field("messages", "STRING", "OpenAI messages as JSON, rendered by the checkpoint's chat template"),
    Field("input_ids", "INT32", "the prompt as token ids, which reach the engine unchanged", low=0,
          high="last_token_id", repeated=True, api=Api("prompt", "")),
    Field("max_tokens", "INT32", "default: what the context allows; 0: no answer, only what was asked about the prompt",
          low=0, high=INT32_MAX, option=Option(),
          api=Api("", "chat and completions", openai=True,
                  note="chat: what the context allows; completions: 16; 0: only what was asked about the prompt")),
    Field("stream", "BOOL", "false: exactly one response", False),
    Field("temperature", "FP32", "0 is greedy", 1.0, 0, 2, checkpoint=True, sampling=True,
          option=Option(), api=Api(openai=True)),
    Field("top_p", "FP32", "draws from the most likely tokens of this total probability", 1.0, 0, 1,
          checkpoint=True, sampling=True, option=Option(), api=Api(openai=True)),
    Field("top_k", "INT32", "0, -1, or as many as the vocabulary has and more: the whole vocabulary", 0, -1, INT32_MAX,
          checkpoint=True, sampling=True, option=Option(), api=Api()),
    Field("min_p", "FP32", "drops tokens less likely than this share of the most likely one", 0.0, 0, 1, sampling=True,
          capability="min_p", option=Option(), api=Api()),
    Field("repetition_penalty", "FP32", "above 1: tokens of prompt and answer become less likely", 1.0, 0, 10,
          above_low=True, checkpoint=True, sampling=True, capability="repetition_penalty", option=Option(), api=Api()),
    Field("presence_penalty", "FP32", "subtracted once from the logits of tokens that are in the answer", 0.0, -2, 2,
          sampling=True, capability="presence_penalty", option=Option(), api=Api(openai=True)),
    Field("frequency_penalty", "FP32", "subtracted for each time that a token occurs in the answer", 0.0, -2, 2,
          sampling=True, capability="frequency_penalty", option=Option(), api=Api(openai=True)),
    Field("seed", "UINT64", "default: a new one per request", None, 0, 2**64 - 1, sampling=True, capability="seed",
          option=Option(),
          api=Api(openai=True, note="same seed, same answer where the engine is deterministic; -n: 2^64 - n"),
          aliases=("random_seed",)),
    Field("min_tokens", "INT32", "no stop before this many tokens", 0, 0, INT32_MAX, sampling=True,
          capability="min_tokens", option=Option(), api=Api(), aliases=("min_length",)),
    Field("stop_words", "STRING", "matched on text, across tokens; up to 64", repeated=True, most=64, longest=1000,
          option=Option("stop", ()), api=Api("stop", openai=True, annotation="str | list[str] | None")),
    Field("stop_token_ids", "INT32", "up to 64; one that ends an answer is not named in `stop_reason`", low=0,
          high="last_token_id", repeated=True, most=64, option=Option(default=()), api=Api()),
    Field("end_id", "INT32", "a further end id; -1, or one beyond the vocabulary: no end at all", None, -1, INT32_MAX),
    Field("pad_id", "INT32", "accepted for NVIDIA's clients, no effect", None, -1, INT32_MAX),
    Field("include_stop_str_in_output", "BOOL", "the stop string stays at the end of the text", False,
          option=Option("include_stop", False), api=Api()),
    Field("bad_words", "STRING", "never generated as usually tokenized, with or without a leading space; up to 64", (),
          repeated=True, most=64, longest=1000, capability="bad_words", option=Option(default=()), api=Api()),
    Field("logit_bias_ids", "INT32", "ids of the tokens to whose logits `logit_bias_values` are added; up to 1,024", (),
          0, "last_token_id", repeated=True, most=1024, capability="logit_bias",
          option=Option("logit_bias", None, "Mapping[int, float] | None"),
          api=Api("logit_bias", openai=True, annotation="dict[str, float] | None",
                  note="token id → -100…100, up to 1,024 of them")),
    Field("logit_bias_values", "FP32", "one for each of `logit_bias_ids`", (), -100, 100, repeated=True,
          api=Api("logit_bias", "")),
    Field("allowed_token_ids", "INT32", "only these tokens are generated, end tokens included; up to 1,024", (),
          0, "last_token_id", repeated=True, filled=True, most=1024, capability="allowed_token_ids",
          option=Option(annotation="Sequence[int] | None"), api=Api()),
    Field("repetition_detection", "INT32",
          "ends an answer that repeats itself: `max_pattern_size`, `min_pattern_size`, `min_count`, in tokens",
          (), 0, 1024, repeated=True, most=3, option=Option(default=(), in_chat=False),
          api=Api(annotation="RepetitionDetection | None",
                  note="`max_pattern_size`, `min_pattern_size`, `min_count`: ends an answer that repeats itself")),
    Field("embedding_bias_words", "STRING", "NVIDIA's form: each token of a word gets its weight added; up to 64", (),
          repeated=True, most=64, longest=1000, capability="logit_bias"),
    Field("embedding_bias_weights", "FP32", "one for each of `embedding_bias_words`", (), -100, 100, repeated=True),
    Field("ignore_eos", "BOOL", "go on until max_tokens; for load tests", False, sampling=True,
          option=Option(default=False), api=Api()),
    Field("num_return_sequences", "INT32", "at most 16; seeds `seed`, `seed + 1`, …", 1, 1, 16,
          option=Option("n", 1, in_chat=False), api=Api("n", "chat and completions", openai=True)),
    Field("beam_width", "INT32", "only 1: no beam search", 1, -INT32_MAX, INT32_MAX),
    Field("length_penalty", "FP32", "accepted for NVIDIA's clients; belongs to beam search, so it has no effect"),
    Field("early_stopping", "INT32", "likewise"),
    Field("return_log_probs", "BOOL", "log probabilities of the answer's tokens", False, capability="logprobs",
          option=Option("logprobs", False, in_chat=False), api=Api("logprobs", "", openai=True)),
    Field("top_logprobs", "INT32", "this many alternatives for each token; needs `return_log_probs`", 0, 0, 20,
          capability="top_logprobs", option=Option(default=0, in_chat=False), api=Api(endpoints="", openai=True)),
    Field("return_prompt_log_probs", "BOOL", "log probabilities of the prompt's tokens, from the second on", False,
          capability="return_prompt_log_probs", option=Option("prompt_logprobs", False, in_chat=False),
          api=Api("prompt_logprobs", "")),
    Field("prompt_top_logprobs", "INT32", "this many alternatives for each; needs `return_prompt_log_probs`", 0, 0, 20,
          capability="return_prompt_log_probs", option=Option(default=0, in_chat=False),
          api=Api("prompt_logprobs", "")),
    Field("return_prompt_ids", "BOOL", "the prompt's token ids, as `prompt_ids` in the first response", False,
          option=Option(default=False, in_chat=False), api=Api("return_token_ids", "")),
    Field("return_end_token", "BOOL", "the token that ended the answer as the last of `output_ids`", False,
          option=Option(default=False, in_chat=False), api=Api("return_end_token", "")),
    Field("guided_decoding_guide_type", "STRING",
          "`json` (any object), `json_schema`, `regex`, `ebnf_grammar` or `structural_tag`; each needs engine support",
          option=Option("guide_type", "")),
    Field("guided_decoding_guide", "STRING",
          "the schema, pattern, grammar or tag; up to 262,144 characters, a pattern or grammar 65,536",
          longest=262144,
          option=Option("guide", "", in_chat=False)),
    Field("guided_decoding_optional", "BOOL", "true: an engine that cannot enforce the guide answers without it", False,
          option=Option("guide_optional", False, in_chat=False)),
    Field("guided_decoding_complete", "BOOL",
          "true: a guided answer is completed within `max_tokens`, shortened if necessary", False,
          sampling=True, capability="guided_decoding_complete", option=Option("guide_complete", False, in_chat=False),
          api=Api("guided_complete")),
    Field("truncate_prompt_tokens", "INT32",
          "a longer prompt is cut to this many tokens; -1: to what the context leaves beside `max_tokens`", None, -1,
          INT32_MAX, option=Option(in_chat=False), api=Api("", "chat and completions")),
    Field("truncation_side", "STRING", "`left`: its last tokens are kept; `right`: its first", "left",
          option=Option(default="left", in_chat=False),
          api=Api("", "chat and completions", annotation='Literal["left", "right"] | None')),
    Field("tools", "STRING", "OpenAI tools as JSON, rendered by the chat template; needs `messages`",
          option=Option(default=(), annotation="Sequence[Mapping[str, Any]]", in_chat=False), api=Api(endpoints="")),
    Field("add_generation_prompt", "BOOL", "default: true unless `continue_final_message`",
          option=Option(), api=Api(endpoints="chat")),
    Field("continue_final_message", "BOOL", "the answer continues the last (assistant) message", False,
          option=Option(default=False), api=Api(endpoints="chat")),
    Field("parse_special", "BOOL", "true: special tokens written in messages act as such (trusted callers only)", False,
          option=Option(default=False, in_chat=False), api=Api(endpoints="chat")),
    Field("exclude_input_in_output", "BOOL", "false: the prompt's text precedes the answer", True),
    Field("packed_output", "BOOL", "true: each response is a single tensor, `packed` (`contract/packed.py`)", False),
    Field("resume_ids", "INT32",
          "output ids of an answer that broke off: only what follows is sent; all else must be as in the first request",
          (), 0, "last_token_id", repeated=True, capability="resume_ids",
          option=Option(default=(), in_chat=False)),
    Field("priority", "INT32", "higher runs sooner", 0, -1000, 1000, capability="priority", option=Option(),
          api=Api(note="lower runs sooner, as in vLLM; over gRPC higher does")),
    Field("lora_name", "STRING", "an adapter in the engine directory", "", capability="lora",
          option=Option(default="")),
    Field("cache_salt", "STRING", "prompts share cached prefixes only with prompts that have the same salt", "",
          longest=256, capability="cache_salt", option=Option(default="", in_chat=False), api=Api()),
    Field("stop", "BOOL", "true cancels the running request with the same Triton request id", False),
    Field("stop_key", "STRING", "a request that has one is cancelled only by a `stop` with the same key", "",
          longest=256),
)
# fmt: on

BY_NAME = {field.name: field for field in FIELDS}
BY_OPTION = {field.option_name: field for field in FIELDS if field.option}
FIELD_OF_TENSOR = {name: field for field in FIELDS for name in field.names}
