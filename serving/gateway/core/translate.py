"""A validated request -> the plan of its generation. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from client.types import Options, Prompt
from contract import ranges
from contract.chunks import REPETITION
from contract.fields import BY_NAME, FIELDS
from serving.gateway.core.guides import (
    Guided,
    arguments_schema,
    dumped,
    required_calls,
    response_guide,
    rest_of_call,
    tool_tags,
)
from serving.gateway.core.plan import GenerationPlan
from serving.gateway.core.tools import ToolParser, open_call
from serving.gateway.schema.errors import bad_request
from serving.gateway.schema.protocol import (
    SEEDS,
    AllowedChoice,
    ChatRequest,
    Common,
    CompletionRequest,
    NamedTool,
    Part,
    RepetitionDetection,
    StreamOptions,
    Tool,
)
from serving.tokenizer.messages import PARTED

COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions; chat answers end by themselves
# Fields of the table that are passed on unchanged; those of ``_CONVERTED`` change their form below.
_CONVERTED = ("stop", "seed", "priority", "logit_bias", "repetition_detection")
_SAME = tuple(
    f for f in FIELDS if f.option and f.api and f.api.endpoints in ("all", "chat and completions")
    and f.api_name not in _CONVERTED
)  # fmt: skip


def chat(request: ChatRequest) -> GenerationPlan:
    options, renamed = _common(request)
    if request.top_logprobs and not request.logprobs:
        raise bad_request("top_logprobs", f"{request.top_logprobs} needs logprobs: true; set both or neither")
    options = replace(
        options, logprobs=bool(request.logprobs), top_logprobs=request.top_logprobs or 0,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=bool(request.continue_final_message),
    )  # fmt: skip
    options, parser, guide = _tools(request, options)
    if guide:
        renamed["guided_decoding_guide_type"] = renamed["guided_decoding_guide"] = guide
    return replace(
        _plan(request, options, renamed), chat=True, prompts=(_messages(request),), parser=parser,
        one_call=request.parallel_tool_calls is False, named_call=isinstance(request.tool_choice, NamedTool),
    )  # fmt: skip


def completion(request: CompletionRequest, most: int) -> GenerationPlan:
    """``most``: prompts in one request."""
    options, renamed = _common(request)
    if options.max_tokens is None:
        options = replace(options, max_tokens=COMPLETION_TOKENS)
    if request.logprobs is not None:
        options = replace(options, logprobs=True, top_logprobs=request.logprobs or 0)
        if request.echo:
            options, scored = _echoed_scores(request.logprobs, options)
            renamed |= scored
    prompts = _prompts(request.prompt, most)
    renamed |= {"text_input": "prompt", "top_logprobs": "logprobs"}
    return replace(
        _plan(request, options, renamed), prompts=prompts, echo=bool(request.echo),
    )  # fmt: skip


def _echoed_scores(logprobs: int, options: Options) -> tuple[Options, dict[str, str]]:
    """``echo`` with ``logprobs``: those of the prompt, too; what `prompt_logprobs` asks for beyond is kept."""
    most = max(logprobs, options.prompt_top_logprobs)
    named = dict.fromkeys(("return_prompt_log_probs", "prompt_top_logprobs"), "logprobs")
    return replace(options, prompt_logprobs=True, prompt_top_logprobs=most, return_prompt_ids=True), named


def _plan(request: Common, options: Options, renamed: dict[str, str]) -> GenerationPlan:
    return GenerationPlan(
        chat=False, prompts=(), options=options, stream=bool(request.stream),
        stream_options=request.stream_options or StreamOptions(), token_ids=bool(request.return_token_ids),
        named_by_id=bool(request.return_tokens_as_token_ids), prompt_logprobs=request.prompt_logprobs,
        user=request.user or "", request_id=request.request_id or "", renamed=renamed,
    )  # fmt: skip


def _prompts(prompt: Any, most: int) -> tuple[Prompt, ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if not prompt:
        raise bad_request("prompt", "the list is empty; send at least one prompt")
    if isinstance(prompt[0], int):
        return (prompt,)
    if len(prompt) > most:
        raise bad_request("prompt", f"{len(prompt)} prompts are too many; send at most {most} in one request")
    if [] in prompt:
        raise bad_request(f"prompt[{prompt.index([])}]", "the list is empty; send at least one token id")
    return tuple(prompt)


def _common(request: Common) -> tuple[Options, dict[str, str]]:
    if request.stream_options and not request.stream:
        raise bad_request("stream_options", "only with stream: true; set both or neither")
    if request.prompt_logprobs is not None and request.stream:
        raise bad_request("prompt_logprobs", "not in a stream; leave stream out, or use echo with logprobs")
    stop = request.stop
    kind, guide, source = response_guide(request)
    given: dict[str, Any] = {
        f.option_name: tuple(value) if f.repeated else value
        for f in _SAME
        if (value := getattr(request, f.api_name)) is not None
    }
    options = Options(
        **given,
        seed=_seed(request.seed),
        priority=_priority(request.priority),
        logit_bias=_biases(request.logit_bias),
        repetition_detection=_repetition(request.repetition_detection),
        return_end_token=bool(
            request.return_token_ids if request.return_end_token is None else request.return_end_token
        ),
        return_prompt_ids=bool(request.return_token_ids) or request.prompt_logprobs is not None,
        prompt_logprobs=request.prompt_logprobs is not None,
        prompt_top_logprobs=request.prompt_logprobs or 0,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        guide_type=kind,
        guide=guide,
    )
    if not 1 <= options.n <= 16:
        raise bad_request("n", f"{options.n} is out of range; give an integer between 1 and 16")
    renamed = {f.name: f.api_name for f in FIELDS if f.api and f.api_name != f.name} | {
        "guided_decoding_guide_type": source, "guided_decoding_guide": source, "text_input": "messages",
    }  # fmt: skip
    most = request.max_completion_tokens
    if most is not None and (request.max_tokens is None or most < request.max_tokens):  # both are limits: both hold
        options, renamed["max_tokens"] = replace(options, max_tokens=most), "max_completion_tokens"
    return options, renamed


def _seed(given: int | None) -> int | None:
    if given is not None and (problem := ranges.integer(given, SEEDS)):
        raise bad_request("seed", problem)
    return None if given is None else given % 2**64


def _priority(given: int | None) -> int | None:
    """vLLM's clients write a low number for what runs sooner, the engine has a high one for it."""
    field = BY_NAME["priority"]
    if given is not None and (problem := ranges.integer(given, ranges.known(field.low, field.high))):
        raise bad_request("priority", problem)
    return None if given is None else -given


def _repetition(given: RepetitionDetection | None) -> tuple[int, ...]:
    values = tuple(given.model_dump()[name] for name in REPETITION) if given else ()
    return values if any(values) else ()


def _biases(given: dict[str, float] | None) -> dict[int, float] | None:
    """OpenAI's keys are token ids written as strings."""
    wrong = next((key for key in given or () if not (key.removeprefix("-").isdecimal() and len(key) <= 11)), None)
    if wrong is not None:
        raise bad_request("logit_bias", f"{wrong[:40]!r} is not a token id; /tokenize gives the ids of a text")
    return {int(key): bias for key, bias in given.items()} if given else None


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    """Only the keys a chat template reads. The tokenizer step checks content and tool calls."""
    out = []
    for at, message in enumerate(request.messages):
        clean: dict[str, Any] = {"role": message.role}
        content = message.content
        if "content" in message.model_fields_set:
            clean["content"] = _joined(at, content) if isinstance(content, list) else content
        for name in ("name", "tool_call_id", "tool_calls"):
            if value := getattr(message, name):
                clean[name] = value
        out.append(clean)
    return out


def _joined(at: int, parts: list[Part]) -> str:
    parts = [part for part in parts if part.type not in ("thinking", "redacted_thinking")]
    texts = [part.refusal if part.type == "refusal" else part.text for part in parts]
    if None in texts:
        missing = texts.index(None)
        raise bad_request(f"messages[{at}].content[{missing}].{parts[missing].type}", "missing; it is required")
    return PARTED.join(text for text in texts if text is not None)


def _tools(request: ChatRequest, options: Options) -> tuple[Options, Callable[[], ToolParser] | None, str]:
    """Options with tools and, for a forced choice, its grammar; the answer's parser; the field that set the grammar."""
    tools, choice = request.tools or [], request.tool_choice
    if not tools:
        if choice not in (None, "none", "auto"):
            raise bad_request("tool_choice", "needs tools; send the functions it may choose from")
        return options, None, ""
    if isinstance(choice, AllowedChoice):
        allowed = [_known(tools, named.function.name) for named in choice.allowed_tools.tools]
        tools, choice = [tool for tool in tools if tool in allowed], choice.allowed_tools.mode
    if choice == "none":  # a client that always asks for whole calls gets text without any
        return replace(options, guide_complete=options.guide_complete and bool(options.guide)), None, ""
    options = replace(options, tools=tuple(tool.model_dump(exclude_none=True) for tool in tools))
    one = request.parallel_tool_calls is False
    if choice in (None, "auto"):
        begun = open_call(_last_text(request)) if request.continue_final_message else ""
        options = _calls_in_text(tools, options, response_guide(request), begun, one=one)
        return options, (lambda: ToolParser("hermes", begun=begun)), ""
    _check_unguided(request)
    if isinstance(choice, NamedTool):  # like `required`, it wins over a response format: the answer is a call
        name = choice.function.name
        schema = arguments_schema(_known(tools, name))
        parser = partial(ToolParser, "named", name)
        return replace(options, guide_type="json_schema", guide=dumped(schema)), parser, "tool_choice"
    schema = required_calls(tools, one=one)
    return (
        replace(options, guide_type="json_schema", guide=dumped(schema)),
        (lambda: ToolParser("array")),
        "tool_choice",
    )


def _check_unguided(request: ChatRequest) -> None:
    """A forced call leaves no text that a grammar of the caller's could be for. OpenAI's response format says what text
    is like if there is any, vLLM's fields what the answer is."""
    kind, _, source = response_guide(request)
    if kind and not source.startswith("response_format"):
        raise bad_request(source, "not beside a forced call, which is the whole answer; send it with tool_choice auto")


def _last_text(request: ChatRequest) -> str:
    content = request.messages[-1].content
    return _joined(len(request.messages) - 1, content) if isinstance(content, list) else content or ""


def _calls_in_text(tools: list[Tool], options: Options, answer: Guided, begun: str, *, one: bool) -> Options:
    """``tool_choice: auto``. Where the request has no grammar for its ``answer``, the guide is optional: it is left out
    if the schemas are too large, or if ``ignore_eos`` asks for an answer that a grammar would end."""
    if answer[0] == "structural_tag":
        return options  # the caller's own tag says where calls are
    rest = rest_of_call(tools, begun, one=one) if begun else ""
    guide, optional = rest or tool_tags(tools, answer, one=one), not answer[0]
    if optional and (options.ignore_eos or len(guide) > (BY_NAME["guided_decoding_guide"].longest or 0)):
        return options
    return replace(options, guide_type="structural_tag", guide=guide, guide_optional=optional)


def _known(tools: list[Tool], name: str) -> Tool:
    found = next((tool for tool in tools if tool.function.name == name), None)
    if found is None:
        names = ", ".join(tool.function.name for tool in tools)
        raise bad_request("tool_choice.function.name", f"{name!r} is not among tools ({names}); name one of them")
    return found
