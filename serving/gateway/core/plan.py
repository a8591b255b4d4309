"""What the gateway has to do for one HTTP request. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from client import kserve
from client.errors import InvalidRequest
from client.sequences import resumed
from client.types import Options, Prompt
from serving.gateway.core.tools import ToolParser
from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.protocol import StreamOptions

BYTES_PER_TOKEN = 4


def prompt_estimate(prompt: Prompt) -> int:
    """A cheap estimate of its number of tokens."""
    if isinstance(prompt, str):
        return len(prompt) // BYTES_PER_TOKEN + 1
    if not prompt or isinstance(prompt[0], int):
        return len(prompt)  # token ids
    letters = sum(len(str(message.get("content") or "")) for message in prompt if isinstance(message, Mapping))
    return letters // BYTES_PER_TOKEN + 8 * len(prompt)


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """One HTTP request as the gateway carries it out: ``prompts`` × ``options.n`` choices."""

    chat: bool
    prompts: tuple[Prompt, ...]
    options: Options
    stream: bool
    stream_options: StreamOptions
    echo: bool = False
    token_ids: bool = False
    named_by_id: bool = False  # the tokens of log probabilities
    prompt_logprobs: int | None = None  # alternatives for each token of the prompt, in vLLM's form
    parser: Callable[[], ToolParser] | None = None
    one_call: bool = False  # parallel_tool_calls: false
    named_call: bool = False  # tool_choice names the function
    user: str = ""
    request_id: str = ""  # what the caller calls the answer; the engine's id stays its own
    keep: Callable[[dict[str, Any]], None] | None = None  # stores the answer; blocks
    request: BaseModel | None = None  # as it came, for endpoints whose answers repeat it
    renamed: dict[str, str] = field(default_factory=dict)  # Triton's tensor name -> this request's field

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.options.n

    @property
    def names_stop(self) -> bool:
        """Whether the answer says which stop string ended it. The engine then leaves the string in the text, where
        ``ChoiceState`` finds it; not possible where the prompt in front of the answer may end with a part of it."""
        return bool(self.options.stop) and not self.echo

    @property
    def in_pieces(self) -> bool:
        """Whether the engine is asked to stream; one whole answer is one response. Scores of a prompt come in pieces
        where the engine reads it in pieces."""
        return self.stream or self.options.n > 1 or self.options.prompt_logprobs

    @property
    def echoes_scores(self) -> bool:
        """Whether log probabilities begin with the prompt's."""
        return self.echo and self.options.logprobs

    def names(self, prompt: int) -> dict[str, str]:
        """Triton's tensor names -> the fields of this request; one of several prompts has its place in the list."""
        if len(self.prompts) == 1:
            return self.renamed
        return self.renamed | {name: f"{self.renamed[name]}[{prompt}]" for name in ("text_input", "input_ids")}

    def infer_request(self, request_id: str, index: int, model: str, ids: Sequence[int] = ()) -> Any:
        """``ids``: those of an answer that broke off. Raises ``ApiError`` for a value that no tensor can hold."""
        options = replace(self.options, include_stop=True) if self.names_stop else self.options
        options = resumed(options, ids) if ids else options
        try:
            request = kserve.infer_request(request_id, self.prompts[index], options, stream=self.in_pieces, model=model)
        except InvalidRequest as error:
            name = self.names(index).get(error.field, error.field)
            raise ApiError(400, name + str(error).removeprefix(error.field), param=name) from None
        if self.echo:
            kserve.add_tensor(request, "exclude_input_in_output", "BOOL", [False])
        return request
