"""A checkpoint's prompts and tokenizer together: what the model reads for a text.

`Embedder` computes from it. Those who only tokenise, count or show tokens need no model, and no
torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from e5.checkpoint import TOKENIZER, Checkpoint, CheckpointManifest
from e5.declarations import Declarations
from e5.errors import InputError
from e5.prompts import DEFAULT_TASK, E5_PROMPTS, Prompts, document_prompt, query_prompt
from e5.tokenizer import TokenizedText, Tokenizer


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

        The arguments are those of `tokenize`.
        """
        texts = [query_prompt(task, query, prompts=self.prompts) for query in queries]
        return texts + [
            document_prompt(task, document, symmetric=symmetric, prompts=self.prompts)
            for document in documents
        ]

    def tokenize(
        self,
        queries: Sequence[str] = (),
        documents: Sequence[str] = (),
        *,
        task: str = DEFAULT_TASK,
        symmetric: bool = False,
        fields: Sequence[str] | None = None,
        truncate: bool = True,
        one_by_one: bool = False,
    ) -> list[TokenizedText]:
        """Token ids of checked texts with their prompts: first the queries, then the documents.

        Args:
            queries: texts that get the task's prompt.
            documents: texts that get no prompt, unless the task is symmetric.
            task: an instruction or a registered name; "" for none.
            symmetric: treat the task as symmetric; registered symmetric tasks always are.
            fields: the caller's name for each text, for errors.
            truncate: shorten texts over `max_length`; False makes them an InputError.
            one_by_one: use one core and little memory, for corpora. Otherwise all cores share the
                texts, which slows an engine that computes at the same time.
        """
        texts = self.with_prompts(queries, documents, task=task, symmetric=symmetric)
        parts = [[text] for text in texts] if one_by_one else [texts]
        tokenized = [each for part in parts for each in self.tokenizer.encode(part)]
        for position, text in enumerate(tokenized):
            if text.truncated and not truncate:
                field = f"text {position}" if fields is None else fields[position]
                num_tokens = self.tokenizer.count(texts[position])
                received = f"a text of {num_tokens} tokens with truncate=false"
                remedy = f"shorten it to {self.tokenizer.max_length} tokens or allow truncation"
                raise InputError(field, received, remedy)
        return tokenized
