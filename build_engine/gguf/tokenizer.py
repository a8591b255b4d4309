"""The tokenizer and sampling defaults in a GGUF file's metadata, as Hugging Face's files.

Byte-level BPE only. GGUF names the rule by which text is split before BPE (``tokenizer.ggml.pre``); the expressions
behind the names are those of the models' own tokenizer.json, as quoted in
https://github.com/ggml-org/llama.cpp/blob/eb6a99c6fab2e530114a5fc996629ba17ec85096/src/llama-vocab.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from build_engine import tokenizer_files
from build_engine.gguf.header import Header
from contract.errors import BuildError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # tokenizer.ggml.token_type
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Tokens that end an answer in addition to the file's own end-of-sequence token, as in llama.cpp
ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "</s>")
# What llama.cpp samples with unless told otherwise:
# https://github.com/ggml-org/llama.cpp/blob/de93b991682fa46acabb813641f7f6b884ad5dd0/common/common.h
LLAMA_CPP_SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
SAMPLING_KEYS = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "penalty_repeat": "repetition_penalty"}


@dataclass(frozen=True, slots=True)
class Split:
    """How a text is split into words. ``pattern`` None: as GPT-2 does; ``digits``: split off every digit first."""

    pattern: str | None = None
    digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False  # a word that is a token is not split further
    adds_bos: bool = False  # where the file does not say


GPT2, DIGITS = Split(), Split(digits=True)
QWEN2 = Split(tokenizer_files.PATTERN, nfc=True)
SPLITS = {
    "gpt-2": GPT2, "phi-2": GPT2, "olmo": GPT2, "mpt": GPT2, "jais": GPT2, "exaone4": GPT2, "gigachat": GPT2,
    "smollm": DIGITS, "starcoder": DIGITS, "refact": DIGITS, "codeshell": DIGITS, "command-r": DIGITS,
    "minerva-7b": DIGITS, "exaone": DIGITS,
    "qwen2": QWEN2, "deepseek-r1-qwen": QWEN2, "megrez": QWEN2, "stablelm2": Split(tokenizer_files.PATTERN),
    "hunyuan": Split(tokenizer_files.PATTERN),
    "llama-bpe": (llama3 := Split(LLAMA3, ignore_merges=True, adds_bos=True)), "llama3": llama3, "llama-v3": llama3,
    "falcon3": llama3, "lfm2": llama3, "pixtral": llama3,
    "dbrx": Split(LLAMA3), "smaug-bpe": Split(LLAMA3), "chatglm-bpe": Split(LLAMA3), "glm4": Split(LLAMA3),
    "tekken": Split(TEKKEN, ignore_merges=True, adds_bos=True),
}  # fmt: skip


class GgufTokenizer:
    """Reads the metadata once; ``write`` puts ``tokenizer_files.FILES`` into a directory."""

    def __init__(self, header: Header) -> None:
        """Raises ``BuildError`` for a tokenizer that cannot be built."""
        self._path = header.files[0]
        self._metadata = header.metadata
        model, pre = self._get("model"), self._get("pre", "")
        if model != "gpt2":
            raise BuildError(
                f"{self._path} has a tokenizer of the kind {model!r}; only byte-level BPE ('gpt2') can be read from a "
                "GGUF file: build from the Hugging Face checkpoint of this model"
            )
        if pre not in SPLITS:
            raise BuildError(
                f"{self._path} splits text by the rule {pre!r} (tokenizer.ggml.pre), which is unknown; known are "
                f"{', '.join(SPLITS)}: build from the Hugging Face checkpoint of this model"
            )
        self._split = SPLITS[pre]
        self._tokens: list[str] = self._get("tokens")
        self._kinds: list[int] = self._get("token_type", [NORMAL] * len(self._tokens))
        if len(self._kinds) != len(self._tokens):
            raise self._damaged(f"{len(self._tokens)} tokens and {len(self._kinds)} token types")
        self._merges: list[str] = self._get("merges")
        for text in (*self._tokens, *self._merges):
            if not isinstance(text, str) or (not text.isascii() and _is_broken(text)):
                raise self._damaged(f"{text!r} is not UTF-8 text")
        if wrong := next((merge for merge in self._merges if " " not in merge), None):
            raise self._damaged(f"the merge {wrong!r} has one part")
        for key in ("bos_token_id", "eos_token_id"):
            if not -1 <= self._get(key, -1) < len(self._tokens):
                raise self._damaged(f"{key} {self._get(key)} is not one of the {len(self._tokens)} tokens")

    def write(self, directory: Path, context: int, sampling: dict[str, Any] | None = None) -> None:
        """``sampling`` replaces the file's own defaults. ``context`` is in tokens."""
        self.tokenizer().save(str(directory / "tokenizer.json"))
        tokenizer_files.dump(self.tokenizer_config(context), directory / "tokenizer_config.json")
        tokenizer_files.dump(self.generation_config(sampling), directory / "generation_config.json")

    def tokenizer(self) -> Tokenizer:
        words, added = self._parts()
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in self._merges)]
        try:
            made = Tokenizer(models.BPE(vocab=words, merges=pairs, ignore_merges=self._split.ignore_merges))
        except Exception as error:  # noqa: BLE001 - the library raises no narrower type
            raise self._damaged(str(error).splitlines()[0]) from None
        if self._split.nfc:
            made.normalizer = normalizers.NFC()
        made.pre_tokenizer = _pre_tokenizer(self._split)
        made.decoder = decoders.ByteLevel()
        for token in added:
            (made.add_special_tokens if token.special else made.add_tokens)([token])
        bos = self._text("bos_token_id")
        if self._adds_bos and bos is not None:
            made.post_processor = processors.TemplateProcessing(
                single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, self._get("bos_token_id"))]
            )
        ids = {text: number for number, text in enumerate(self._tokens)}
        wrong = [text for text in [*words, *(t.content for t in added)] if made.token_to_id(text) != ids[text]]
        if wrong:
            raise self._damaged(f"token {wrong[0]!r} gets id {made.token_to_id(wrong[0])}")
        return made

    def tokenizer_config(self, context: int) -> dict[str, Any]:
        template = self._metadata.get("tokenizer.chat_template")
        return {
            "add_bos_token": self._adds_bos,
            "add_prefix_space": False,
            "bos_token": self._text("bos_token_id"),
            "clean_up_tokenization_spaces": False,
            "eos_token": self._text("eos_token_id"),
            "model_max_length": context,
            "pad_token": self._text("padding_token_id"),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": self._text("unknown_token_id"),
            **({"chat_template": template} if template else {}),
        }

    def generation_config(self, sampling: dict[str, Any] | None = None) -> dict[str, Any]:
        found = {
            name: self._metadata[f"general.sampling.{key}"]
            for key, name in SAMPLING_KEYS.items()
            if f"general.sampling.{key}" in self._metadata
        }
        ids = {
            "bos_token_id": self._get("bos_token_id", -1),
            "eos_token_id": self._ends() or -1,
            "pad_token_id": self._get("padding_token_id", -1),
        }
        return {
            **{name: value for name, value in ids.items() if value != -1},
            "do_sample": True,
            **(sampling or found or LLAMA_CPP_SAMPLING),
        }

    @property
    def _adds_bos(self) -> bool:
        return bool(self._get("add_bos_token", self._split.adds_bos))

    def _ends(self) -> list[int]:
        own = [self._get(f"{name}_token_id", -1) for name in ("eos", "eot", "eom")]
        named = [i for i, text in enumerate(self._tokens) if text in ENDS and self._kinds[i] != NORMAL]
        return list(dict.fromkeys(number for number in [*own, *named] if number >= 0))

    def _parts(self) -> tuple[dict[str, int], list[AddedToken]]:
        """The words of the BPE model, and the tokens that are matched in a text verbatim.

        Those at the end of the vocabulary get their ids by being added; converters pad it with unused ones."""
        tokens, kinds = self._tokens, self._kinds
        stop = len(tokens)
        while stop and kinds[stop - 1] == UNUSED:
            stop -= 1
        words = stop
        while words and kinds[words - 1] in (CONTROL, USER_DEFINED, UNKNOWN):
            words -= 1
        added = [
            AddedToken(tokens[i], normalized=False, special=kinds[i] != USER_DEFINED)
            for i in range(stop)
            if kinds[i] in (CONTROL, USER_DEFINED, UNKNOWN)
        ]
        return {text: number for number, text in enumerate(tokens[:words])}, added

    def _text(self, key: str) -> str | None:
        number = self._get(key, -1)
        return self._tokens[number] if 0 <= number < len(self._tokens) else None

    def _get(self, key: str, default: Any = None) -> Any:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if value is None:
            raise BuildError(f"{self._path} has no tokenizer.ggml.{key}: use a file that holds its tokenizer")
        return value

    def _damaged(self, why: str) -> BuildError:
        return BuildError(f"{self._path}: its tokenizer is damaged ({why}): download it again")


def _pre_tokenizer(split: Split) -> pre_tokenizers.PreTokenizer:
    if split.pattern is None:
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
        return (
            pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words]) if split.digits else words
        )
    cut = pre_tokenizers.Split(Regex(split.pattern), "isolated", invert=False)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    return pre_tokenizers.Sequence([cut, as_bytes])


def _is_broken(text: str) -> bool:
    """Whether it came from bytes that are not UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in text)
