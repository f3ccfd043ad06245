"""The tokenizer of a model that a remote service serves, from a checkpoint on this machine.

A remote service gives numbers of tokens, and no token ids. So the tokenizer is read here, and must
count the same tokens as the service.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from e5.errors import E5Error, SettingsError, TokenizerError
from e5.gateway.refusals import RefusalError

if TYPE_CHECKING:  # a gateway before a remote service needs no tokenizer's library
    from e5.prompt_tokenizer import PromptTokenizer

logger = logging.getLogger(__name__)

# Tokenizers of other models do not agree on the number of tokens of all of these.
PROBE_TEXTS = (
    "The capital of France is Paris.",
    "  for (int i = 0; i < 10; i++) {\n\t\tsum += values[i];\n  }",
    "Donaudampfschifffahrtsgesellschaft, Éclair, naïveté",
    "雪が降る 😀 ثلج снег",
    "1234567890 3.14159 2026-11-29T01:02:03Z",
    "HTTPServerErrorHandler pneumonoultramicroscopic <s> </s>",
)
_FOLDER = "a folder with the served model's tokenizer.json"


def read_tokenizer(folder: str | Path | None, max_length: int) -> "PromptTokenizer":
    """The tokenizer of a checkpoint, with the template of its prompts.

    Args:
        folder: as `E5_WEIGHTS` names it; it needs no weights.
        max_length: the number of tokens after which the service truncates texts.

    Raises:
        RefusalError: 404, saying what is missing.
    """
    try:
        from e5.prompt_tokenizer import PromptTokenizer
    except ModuleNotFoundError as error:
        received = f"its package {error.name} is not installed"
        remedy = f"run pip install {error.name} there, and set E5_WEIGHTS to {_FOLDER}"
        missing = TokenizerError("the gateway's tokenizer", received, remedy)
        raise RefusalError(404, missing) from error
    if folder is None or not (Path(folder) / "tokenizer.json").is_file():
        raise _refusal("no tokenizer.json")
    try:
        return PromptTokenizer.read(Path(folder), max_length=max_length)
    except E5Error as error:
        logger.warning("E5_WEIGHTS: %s", error)
        raise _refusal("a damaged tokenizer.json or manifest.json") from error


def check_counts(reader: "PromptTokenizer", counts: Sequence[int]) -> None:
    """Refuse a tokenizer that counts other numbers of tokens than the service did.

    Args:
        reader: the tokenizer, with its prompts.
        counts: of `PROBE_TEXTS` as queries, and as documents.

    Raises:
        RefusalError: 404.
    """
    texts = reader.with_prompts(PROBE_TEXTS, PROBE_TEXTS)
    if [text.num_tokens for text in reader.tokenizer.encode(texts)] != list(counts):
        raise _refusal("the tokenizer of another model")


def _refusal(received: str) -> RefusalError:
    """The refusal, without the folder's path, which is not for callers."""
    remedy = f"set it, on the gateway, to {_FOLDER}"
    return RefusalError(404, SettingsError("E5_WEIGHTS", received, remedy))
