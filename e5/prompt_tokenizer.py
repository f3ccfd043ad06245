"""A checkpoint's prompts and tokenizer together: what the model reads for a text.

`Embedder` computes from it. Those who only count or show tokens need no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from e5.checkpoint import TOKENIZER, Checkpoint, CheckpointManifest
from e5.declarations import Declarations
from e5.prompts import DEFAULT_TASK, E5_PROMPTS, Prompts, document_prompt, query_prompt
from e5.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptTokenizer:
    """The two parts of a checkpoint that decide which token ids the model reads.

    Attributes:
        tokenizer: of the checkpoint.
        prompts: the template of a query's prompt, and the model's own prompts.
    """

    tokenizer: Tokenizer
    prompts: Prompts = E5_PROMPTS

    @classmethod
    def read(cls, folder: Path, *, max_length: int) -> Self:
        """Read them from a checkpoint's folder, in which the weights may be missing.

        Raises:
            TokenizerError: see `Tokenizer`.
            WeightsError: for a manifest or another file about the model that cannot be used.
        """
        manifest, declarations = CheckpointManifest.read(folder), Declarations.read(folder)
        prompts = Checkpoint(folder, {}, manifest, declarations).prompts
        return cls(Tokenizer(folder / TOKENIZER, max_length=max_length), prompts)

    def with_prompts(
        self,
        queries: Sequence[str] = (),
        documents: Sequence[str] = (),
        *,
        task: str = DEFAULT_TASK,
        symmetric: bool = False,
    ) -> list[str]:
        """What the model reads: first the queries, then the documents, each with its prompt.

        The arguments are those of `Embedder.tokenize`.
        """
        texts = [query_prompt(task, query, prompts=self.prompts) for query in queries]
        return texts + [
            document_prompt(task, document, symmetric=symmetric, prompts=self.prompts)
            for document in documents
        ]
