"""A checkpoint's tokenizer with its template: how a text reads with its prompt, and its token ids.

`Embedder` computes from them. Those who only count or show tokens need no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from e5.checkpoint import TOKENIZER, CheckpointManifest
from e5.prompts import DEFAULT_TASK, TEMPLATE, document_prompt, query_prompt
from e5.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptTokenizer:
    """The two parts of a checkpoint that decide which token ids the model reads.

    Attributes:
        tokenizer: of the checkpoint.
        template: the template of a query's prompt.
    """

    tokenizer: Tokenizer
    template: str = TEMPLATE

    @classmethod
    def read(cls, folder: Path, *, max_length: int) -> Self:
        """Read them from a checkpoint's folder, in which the weights may be missing.

        Raises:
            TokenizerError: see `Tokenizer`.
            WeightsError: for a manifest that cannot be used.
        """
        manifest = CheckpointManifest.read(folder)
        template = TEMPLATE if manifest is None else manifest.template
        return cls(Tokenizer(folder / TOKENIZER, max_length=max_length), template)

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
        template = self.template
        texts = [query_prompt(task, query, template=template) for query in queries]
        return texts + [
            document_prompt(task, document, symmetric=symmetric, template=template)
            for document in documents
        ]
