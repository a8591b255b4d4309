"""The request bodies, field by field, and what is refused by name.

A field's description is its note in the coverage table of docs/gateway.md; ``x-openai`` and ``x-vllm`` say who else has
it. The models are strict: ``"10"`` is not a number. Ranges are the tokenizer step's business, so that gRPC and HTTP
callers get the same sentence.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from serving.gateway.core.errors import ApiError, bad_request

JsonObject = dict[str, Any]


def note(text: str, *, openai: bool = False, vllm: bool = True, default: Any = None) -> Any:
    return Field(default=default, description=text, json_schema_extra={"x-openai": openai, "x-vllm": vllm})


_T = TypeVar("_T")


class _FailFast(FailFast):
    __hash__ = object.__hash__  # unions hash their members


Quick = Annotated[list[_T], _FailFast()]  # the first wrong element is enough: a body has room for a million of them


class Part(BaseModel):
    """A text part of a message."""

    model_config = ConfigDict(strict=True)
    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class Message(BaseModel):
    """OpenAI message; further keys (``refusal``, ``annotations``…) of answers sent back are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[JsonObject] | None = None


class Function(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
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


class JsonSchemaSpec(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str | None = None
    description: str | None = None
    schema_: JsonObject = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaSpec | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False
    include_obfuscation: bool | None = False


class Structured(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    json_: str | JsonObject | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Shared(BaseModel):
    """Fields of every endpoint that generates."""

    model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=True)
    others: ClassVar[dict[str, Fixed]] = {}  # answers to fields that this endpoint has not, before the common ones

    model: str | None = note("default: the served model; an unknown name is 404", openai=True)
    stream: bool | None = note("server-sent events", openai=True)
    temperature: float | None = note("default: generation_config.json", openai=True)
    top_p: float | None = note("default: generation_config.json", openai=True)
    stop: str | list[str] | None = note("matched on text, across tokens; up to 64", openai=True)
    seed: int | None = note("same seed, same engine, same answer where the engine is deterministic", openai=True)
    presence_penalty: float | None = note("refused where the engine lacks it", openai=True)
    frequency_penalty: float | None = note("refused where the engine lacks it", openai=True)
    logit_bias: dict[str, float] | None = note(
        "token id → -100…100, up to 1,024 of them; refused where the engine lacks it", openai=True
    )
    user: str | None = note("goes to the log", openai=True)
    metadata: JsonObject | None = note("accepted, nothing is stored", openai=True, vllm=False)
    safety_identifier: str | None = note("accepted, no effect", openai=True, vllm=False)
    prompt_cache_key: str | None = note("accepted: the prefix cache needs no hint", openai=True, vllm=False)
    prompt_cache_retention: str | None = note("accepted, no effect", openai=True, vllm=False)
    prompt_cache_options: JsonObject | None = note("accepted, no effect", openai=True, vllm=False)
    top_k: int | None = note("0 or -1: the whole vocabulary")
    min_p: float | None = note("refused where the engine lacks it")
    repetition_penalty: float | None = note("refused where the engine lacks it")
    min_tokens: int | None = note("refused where the engine lacks it")
    ignore_eos: bool | None = note("for load tests")
    stop_token_ids: list[int] | None = note("up to 64")
    include_stop_str_in_output: bool | None = note("")
    bad_words: list[str] | None = note("refused where the engine lacks it")
    priority: int | None = note("higher is sooner; refused where the engine lacks it")
    structured_outputs: Structured | None = note("vLLM's newer form of `guided_*`")


class Common(Shared):
    """Further fields of chat and completions."""

    stream_options: StreamOptions | None = note("`include_usage`; `continuous_usage_stats` as vLLM", openai=True)
    max_tokens: int | None = note("chat: what the context leaves; completions: 16", openai=True)
    n: int | None = note("at most 16; seeds `seed`, `seed + 1`, …", openai=True)
    return_token_ids: bool | None = note("`token_ids` beside each text")
    guided_json: str | JsonObject | None = note("a JSON schema, enforced")
    guided_regex: str | None = note("enforced")
    guided_choice: list[str] | None = note("enforced, as a regular expression")
    guided_grammar: str | None = note("EBNF, enforced")


class ChatRequest(Common):
    """POST /v1/chat/completions."""

    messages: Quick[Message] = Field(
        min_length=1,
        description="text only; images and audio are refused",
        json_schema_extra={"x-openai": True, "x-vllm": True},
    )
    max_completion_tokens: int | None = note("the newer name of `max_tokens`", openai=True)
    tools: list[Tool] | None = note(
        "Hermes format of Qwen2.5; `strict` is enforced with `required` or a name", openai=True
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = note(
        "`required` and a name need an engine with guided decoding", openai=True
    )
    parallel_tool_calls: bool | None = note("false: at most one call is passed on", openai=True)
    response_format: ResponseFormat | None = note("`json_object` and `json_schema`, enforced or refused", openai=True)
    add_generation_prompt: bool | None = note("default: true unless `continue_final_message`")
    continue_final_message: bool | None = note("the answer goes on where the last (assistant) message ends")
    logprobs: bool | None = note("refused where the engine lacks it", openai=True)
    top_logprobs: int | None = note("0 to 20; refused where the engine lacks it", openai=True)


class CompletionRequest(Common):
    """POST /v1/completions."""

    prompt: str | Quick[str] | Quick[int] | Quick[Quick[int]] = Field(
        description="text, token ids, or a list of either", json_schema_extra={"x-openai": True, "x-vllm": True}
    )
    echo: bool | None = note("the prompt's text in front of the answer", openai=True)
    logprobs: int | None = note("0 to 20; refused where the engine lacks it", openai=True)
    response_format: ResponseFormat | None = note("`json_object` and `json_schema`, enforced or refused")


class Fixed(NamedTuple):
    """A field that may be sent, but only with a value that changes nothing."""

    allowed: tuple[Any, ...]
    openai: bool
    vllm: bool
    why: str


_NO_IDEA = "this server has nothing like it"
# fmt: off
FIXED: dict[str, Fixed] = {
    "best_of": Fixed((1,), True, False, "draw n and choose yourself"),
    "service_tier": Fixed(("auto", "default"), True, False, "there is one tier"),
    "store": Fixed((False,), True, False, "nothing is stored"),
    "modalities": Fixed((["text"],), True, False, "the model reads and writes text"),
    "suffix": Fixed(("",), True, False, "Qwen2.5-Instruct is no fill-in model"),
    "use_beam_search": Fixed((False,), False, True, "sampling only"),
    "length_penalty": Fixed((1, 1.0), False, True, "belongs to beam search"),
    "skip_special_tokens": Fixed((True,), False, True, "special tokens never appear in the text"),
    "spaces_between_special_tokens": Fixed((True, False), False, True, "special tokens never appear in the text"),
    "add_special_tokens": Fixed((False, True), False, True, "Qwen2.5 has none to add"),
    "detokenize": Fixed((True,), False, True, "text is what this server answers with"),
}
REFUSED: dict[str, Fixed] = {
    name: Fixed((), openai, vllm, why)
    for name, openai, vllm, why in (
        ("functions", True, False, "use tools"),
        ("function_call", True, False, "use tool_choice"),
        ("audio", True, True, "the model reads and writes text"),
        ("prediction", True, False, _NO_IDEA),
        ("reasoning_effort", True, True, "Qwen2.5 does not reason apart"),
        ("verbosity", True, False, _NO_IDEA),
        ("web_search_options", True, False, _NO_IDEA),
        ("prompt_logprobs", False, True, "the engines here give log probabilities of the answer only"),
        ("truncate_prompt_tokens", False, True, "shorten the prompt yourself: a cut prompt answers another question"),
        ("chat_template", False, True, "use /v1/completions with your own template"),
        ("chat_template_kwargs", False, True, "use /v1/completions with your own template"),
        ("documents", False, True, "put them into a message"),
        ("logits_processors", False, True, _NO_IDEA),
        ("allowed_token_ids", False, True, _NO_IDEA),
        ("guided_decoding_backend", False, True, "the engine has one"),
        ("guided_whitespace_pattern", False, True, "write it into the grammar"),
        ("mm_processor_kwargs", False, True, "the model reads text"),
        ("kv_transfer_params", False, True, _NO_IDEA),
        ("return_tokens_as_token_ids", False, True, "use return_token_ids"),
        ("moderation", True, False, _NO_IDEA),
        ("thinking_token_budget", False, True, "Qwen2.5 does not reason apart"),
        ("include_reasoning", False, True, "Qwen2.5 does not reason apart"),
        ("truncation_side", False, True, "shorten the prompt yourself: a cut prompt answers another question"),
        ("media_io_kwargs", False, True, "the model reads text"),
        ("request_id", False, True, "send the header X-Request-ID"),
        ("return_prompt_text", False, True, "/tokenize and /detokenize give it"),
        ("cache_salt", False, True, _NO_IDEA),
        ("vllm_xargs", False, True, _NO_IDEA),
        ("repetition_detection", False, True, _NO_IDEA),
    )
}
# fmt: on


def parse(kind: type[BaseModel], body: Any) -> Any:
    """The validated request. Raises ``ApiError`` 400 naming the first wrong field."""
    if not isinstance(body, dict):
        raise ApiError(400, f"the body is {_shown(body)}; send a JSON object")
    known, others = kind.model_fields, getattr(kind, "others", {})
    for name in [n for n in body if n not in known]:
        _other_field(name, body[name], list(known), others)
    try:
        return kind.model_validate({k: v for k, v in body.items() if k in known})
    except ValidationError as error:
        raise _first(error) from None


def _other_field(name: str, value: Any, known: list[str], others: dict[str, Fixed]) -> None:
    fixed = others.get(name) or FIXED.get(name) or REFUSED.get(name)
    if fixed is None:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else "; see the field table in docs/gateway.md"
        raise bad_request(name, f"no such field{hint}", "unknown_field")
    if value is None or any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in fixed.allowed):
        return
    only = f"; leave it out or send {' or '.join(map(_shown, fixed.allowed))}" if fixed.allowed else ""
    raise bad_request(name, f"{_shown(value)} is not supported ({fixed.why}){only}", "unsupported")


_MEDIA = ("image_url", "input_audio", "audio_url", "video_url", "file", "input_image", "input_file")


def _first(error: ValidationError) -> ApiError:
    """pydantic's first complaint in this project's form, with a path like ``messages[0].role``."""
    complaints = error.errors(include_url=False, include_context=False)
    same = [c for c in complaints if c["loc"][:1] == complaints[0]["loc"][:1]]
    first = max(
        same, key=lambda c: len(c["loc"])
    )  # of a union, the member that came furthest is the one that was meant
    path, value = _path(first["loc"]), first.get("input")
    if first["type"] == "missing":
        return bad_request(path, "missing; it is required")
    if value in _MEDIA and path.endswith(".type"):
        return bad_request(path, f"{value} is not supported; this model reads text", "unsupported")
    return bad_request(path, f"{_shown(value)} is wrong: {first['msg'].removeprefix('Input ')}")


def _path(loc: tuple[int | str, ...]) -> str:
    """Only the caller's own names: pydantic adds its name of each member of a union."""
    out = ""
    for at, part in enumerate(loc):
        if isinstance(part, int):
            out += f"[{part}]"
        elif at == 0 or (part.isidentifier() and part not in ("str", "int", "bool") and not part[0].isupper()):
            out += f".{part}" if out else part
    return out


def _shown(value: Any) -> str:
    text = repr(value if not isinstance(value, str) else value[:100])
    return text if len(text) <= 60 else text[:59] + "…"
