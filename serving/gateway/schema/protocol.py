"""The request bodies of chat completions and completions, and what all generating endpoints share.

A field's description is its note in the table of docs/gateway.md; ``x-openai`` and ``x-vllm`` say whether those APIs
have it. The models are strict: ``"10"`` is not a number. The tokenizer step checks ranges, so gRPC and HTTP callers get
the same message.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator

from serving.gateway.schema.formats import ResponseFormat
from serving.gateway.schema.others import Fixed
from serving.tokenizer.tools import TOOL_NAME

JsonObject = dict[str, Any]
SEEDS = (-(2**63), 2**64 - 1)  # OpenAI's are signed, the engine's are not
REQUEST_ID = r"^[A-Za-z0-9_.:-]{1,128}$"


def note(text: str, *, openai: bool = False, vllm: bool = True) -> Any:
    return Field(default=None, description=text, json_schema_extra={"x-openai": openai, "x-vllm": vllm})


_T = TypeVar("_T")


class _FailFast(FailFast):
    __hash__ = object.__hash__  # unions hash their members


Quick = Annotated[list[_T], _FailFast()]  # stops at the first wrong element: a body can hold a million of them


class Part(BaseModel):
    """A part of a message: text, also under the names that it has in /v1/responses, or what a reasoning model thought,
    which no chat template here has a place for."""

    model_config = ConfigDict(strict=True)
    type: Literal["text", "refusal", "input_text", "output_text", "thinking", "redacted_thinking"]
    text: str | None = None
    refusal: str | None = None


class Message(BaseModel):
    """OpenAI message; further keys (``refusal``, ``annotations``…) of answers sent back are ignored, but for those that
    hold what was said."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[JsonObject] | None = None
    function_call: None = None
    audio: None = None


class Function(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str = Field(pattern=TOOL_NAME)
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str


class NamedTool(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["function"] = "function"
    function: NamedFunction


class AllowedTools(BaseModel):
    """Some of the request's tools; ``mode`` as the plain choice of that name."""

    model_config = ConfigDict(strict=True)
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class AllowedChoice(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False
    include_obfuscation: bool | None = False

    @property
    def continuous(self) -> bool:
        """Whether every chunk has a usage. As in vLLM, only together with ``include_usage``."""
        return bool(self.include_usage and self.continuous_usage_stats)


class Structured(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    json_: str | JsonObject | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None


class RepetitionDetection(BaseModel):
    """vLLM's, with its defaults: no detection."""

    model_config = ConfigDict(strict=True, extra="forbid")
    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0


class Shared(BaseModel):
    """Fields of every endpoint that generates."""

    model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=True)
    others: ClassVar[dict[str, Fixed]] = {}  # fields this endpoint does not have; looked up before FIXED and REFUSED

    model: str | None = note("default: the served model; an unknown name is 404", openai=True)
    stream: bool | None = note("server-sent events", openai=True)
    # shared fields: begin
    temperature: float | None = note("0 is greedy; default: generation_config.json", openai=True)
    top_p: float | None = note(
        "draws from the most likely tokens of this total probability; default: generation_config.json", openai=True
    )
    top_k: int | None = note(
        "0, -1, or as many as the vocabulary has and more: the whole vocabulary; default: generation_config.json"
    )
    min_p: float | None = note("drops tokens less likely than this share of the most likely one; needs engine support")
    repetition_penalty: float | None = note(
        "above 1: tokens of prompt and answer become less likely; default: generation_config.json; needs engine support"
    )
    presence_penalty: float | None = note(
        "subtracted once from the logits of tokens that are in the answer; needs engine support", openai=True
    )
    frequency_penalty: float | None = note(
        "subtracted for each time that a token occurs in the answer; needs engine support", openai=True
    )
    seed: int | None = note(
        "same seed, same answer where the engine is deterministic; -n: 2^64 - n; needs engine support", openai=True
    )
    min_tokens: int | None = note("no stop before this many tokens; needs engine support")
    stop: str | list[str] | None = note("matched on text, across tokens; up to 64", openai=True)
    stop_token_ids: list[int] | None = note("up to 64; one that ends an answer is not named in `stop_reason`")
    include_stop_str_in_output: bool | None = note("the stop string stays at the end of the text")
    bad_words: list[str] | None = note(
        "never generated as usually tokenized, with or without a leading space; up to 64; needs engine support"
    )
    logit_bias: dict[str, float] | None = note(
        "token id → -100…100, up to 1,024 of them; needs engine support", openai=True
    )
    allowed_token_ids: list[int] | None = note(
        "only these tokens are generated, end tokens included; up to 1,024; needs engine support"
    )
    repetition_detection: RepetitionDetection | None = note(
        "`max_pattern_size`, `min_pattern_size`, `min_count`: ends an answer that repeats itself"
    )
    ignore_eos: bool | None = note("go on until max_tokens; for load tests")
    guided_complete: bool | None = note(
        "true: a guided answer is completed within `max_tokens`, shortened if necessary; needs engine support"
    )
    priority: int | None = note("lower runs sooner, as in vLLM; over gRPC higher does; needs engine support")
    cache_salt: str | None = note(
        "prompts share cached prefixes only with prompts that have the same salt; needs engine support"
    )
    # shared fields: end
    user: str | None = note("goes to the log", openai=True)
    metadata: JsonObject | None = note("accepted, nothing is stored", openai=True, vllm=False)
    safety_identifier: str | None = note("accepted, no effect", openai=True, vllm=False)
    prompt_cache_key: str | None = note("accepted: the prefix cache needs no hint", openai=True, vllm=False)
    prompt_cache_retention: str | None = note("accepted, no effect", openai=True, vllm=False)
    prompt_cache_options: JsonObject | None = note("accepted, no effect", openai=True, vllm=False)
    session_id: str | None = note("accepted, no effect")
    chat_template_kwargs: JsonObject | None = note("false, empty or null, and only for names that the template lacks")
    structured_outputs: Structured | None = note("vLLM's newer form of `guided_*`")

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """JSON has one kind of number: 4.0 is the integer 4. From 2^53 on a float no longer says which integer is
        meant."""
        whole = isinstance(value, float) and value.is_integer() and abs(value) <= 2**53
        return int(value) if whole else value


class Common(Shared):
    """Further fields of chat and completions."""

    stream_options: StreamOptions | None = note("`include_usage`; `continuous_usage_stats` as vLLM", openai=True)
    # common fields: begin
    max_tokens: int | None = note(
        "chat: what the context allows; completions: 16; 0: only what was asked about the prompt", openai=True
    )
    n: int | None = note("at most 16; seeds `seed`, `seed + 1`, …", openai=True)
    truncate_prompt_tokens: int | None = note(
        "a longer prompt is cut to this many tokens; -1: to what the context leaves beside `max_tokens`"
    )
    truncation_side: Literal["left", "right"] | None = note("`left`: its last tokens are kept; `right`: its first")
    # common fields: end
    max_completion_tokens: int | None = note(
        "the newer name of `max_tokens`; of both the smaller one holds", openai=True
    )
    prompt_logprobs: int | None = note(
        "0 to 20 alternatives for each token of the prompt; not in streams; needs engine support"
    )
    return_token_ids: bool | None = note(
        "`token_ids` beside each text, with the end or stop token, and `prompt_token_ids`; `logprobs` have it too"
    )
    return_end_token: bool | None = note(
        "false: `token_ids` without that one; true: `logprobs` with it; default: `return_token_ids`", vllm=False
    )
    return_tokens_as_token_ids: bool | None = note("log probabilities name each token `token_id:123`")
    request_id: Annotated[str, Field(pattern=REQUEST_ID)] | None = note(
        "the answer's id, behind `chatcmpl-` or `cmpl-`: letters, digits, `_.:-`, up to 128"
    )
    guided_json: str | JsonObject | None = note("a JSON schema, enforced")
    guided_regex: str | None = note("enforced")
    guided_choice: list[str] | None = note("enforced, as a regular expression")
    guided_grammar: str | None = note("EBNF, enforced")


class ChatRequest(Common):
    """POST /v1/chat/completions."""

    others: ClassVar[dict[str, Fixed]] = dict.fromkeys(
        ("prompt", "input"), Fixed((), False, False, "here it is called messages")
    )

    messages: Quick[Message] = Field(
        min_length=1,
        description="text only; images and audio are refused",
        json_schema_extra={"x-openai": True, "x-vllm": True},
    )
    tools: list[Tool] | None = note(
        "Hermes format of Qwen2.5; calls obey their schemas where the engine has grammars", openai=True
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedChoice | None = note(
        "`required` and a name need an engine with guided decoding; `allowed_tools` hides the others", openai=True
    )
    parallel_tool_calls: bool | None = note("false: at most one call", openai=True)
    response_format: ResponseFormat | None = note(
        "`json_object` (with `schema` or, as Hugging Face's client, `value`: by that), `json_schema` (its `name` is "
        "required, as OpenAI and vLLM do), `structural_tag`; as trtllm-serve, TGI, LMDeploy, Fireworks and Together "
        "have them `json`, `regex` (`regex_schema`) and `ebnf` (`grammar`): enforced or refused; with `tools`: it or "
        "calls",
        openai=True,
    )
    # chat fields: begin
    add_generation_prompt: bool | None = note("default: true unless `continue_final_message`")
    continue_final_message: bool | None = note("the answer continues the last (assistant) message")
    parse_special: bool | None = note("true: special tokens written in messages act as such (trusted callers only)")
    # chat fields: end
    logprobs: bool | None = note("refused if the engine lacks it", openai=True)
    top_logprobs: int | None = note("0 to 20; refused if the engine lacks it", openai=True)


class CompletionRequest(Common):
    """POST /v1/completions."""

    others: ClassVar[dict[str, Fixed]] = {
        "messages": Fixed((), False, False, "here it is called prompt; /v1/chat/completions takes messages"),
        "input": Fixed((), False, False, "here it is called prompt"),
    }

    prompt: str | Quick[str] | Quick[int] | Quick[Quick[int]] = Field(
        description="text, token ids, or a list of either", json_schema_extra={"x-openai": True, "x-vllm": True}
    )
    echo: bool | None = note("the prompt's text in front of the answer", openai=True)
    logprobs: int | None = note("0 to 20; with `echo` of the prompt too; refused if the engine lacks it", openai=True)
    response_format: ResponseFormat | None = note("the same types: enforced or refused")
