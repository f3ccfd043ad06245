"""The composer: texts -> vectors, through prompts, tokenizer, packing, model and vectors.

The only place that knows all of them. Knows nothing of requests, HTTP or Cog.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from e5 import prompts
from e5.engine import Engine
from e5.errors import (
    EngineError,
    InputError,
    NonFiniteError,
    OutOfMemoryError,
    TokenizerError,
)
from e5.packing import TokenIds
from e5.settings import Settings
from e5.tokenizer import MISTRAL_GOLDENS, MISTRAL_VOCAB_SIZE, RULE, Encoding, Tokenizer
from e5.vectors import Vectors, cosine_scores, finish
from e5.weights import TOKENIZER, Checkpoint, choose_device, choose_dtype, load_model

logger = logging.getLogger(__name__)

# Two share a prefix: its vectors would change with what follows if attention were not causal.
SELF_CHECK_TEXTS = (
    "Paris",
    prompts.query_prompt(prompts.DEFAULT_TASK, "What is the capital of France?"),
    prompts.query_prompt(prompts.DEFAULT_TASK, "Snow"),
)


class Embedder:
    """A loaded checkpoint that turns texts into vectors.

    Attributes:
        engine: token ids -> vectors.
        tokenizer: the checkpoint's tokenizer under our rule.
        name: the checkpoint's folder name and the fingerprint of everything that shapes a vector.

    Example:
        >>> embedder = Embedder.load(Settings(weights="weights/e5-mini"))
        >>> queries = embedder.encode_query(["how much protein should a female eat"])
        >>> documents = embedder.encode_document(["46 grams a day.", "A summit is a mountain top."])
        >>> embedder.similarity(queries, documents).shape
        (1, 2)
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, *, name: str) -> None:
        """Compose loaded parts; `Embedder.load` is the usual way."""
        self.engine = engine
        self.tokenizer = tokenizer
        self.name = name

    @classmethod
    def load(cls, settings: Settings) -> "Embedder":
        """Load, verify and try a checkpoint.

        Raises:
            WeightsError: the folder is missing, incomplete, damaged or of another kind.
            TokenizerError: the tokenizer does not give the ids the model was trained on.
            SettingsError: the device or dtype cannot be had here.
            EngineError: the model's vectors are not finite, or change with their batch mates.
        """
        checkpoint = Checkpoint.find(Path(settings.weights))
        folder, manifest = checkpoint.folder, checkpoint.manifest
        tokenizer = Tokenizer(folder / TOKENIZER, max_length=settings.max_length)
        if manifest is None:
            logger.warning("%s has no manifest.json: its files were not verified", folder)
        else:
            tokenizer.check(manifest.goldens)
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, device)
        model = load_model(folder, device=device, dtype=dtype)
        config = model.config
        if tokenizer.vocab_size > config.vocab_size:
            raise TokenizerError(
                f"{folder / TOKENIZER}: gives ids up to {tokenizer.vocab_size - 1}, the model "
                f"knows {config.vocab_size}; restore the checkpoint's own tokenizer.json."
            )
        if config.vocab_size == MISTRAL_VOCAB_SIZE:
            tokenizer.check(MISTRAL_GOLDENS)
        limits = (settings.max_length, config.max_position_embeddings, config.sliding_window)
        max_length = min(limit for limit in limits if limit is not None)
        tokenizer.max_length = max_length
        fingerprint = fingerprint_of(checkpoint.digests, dtype=dtype, max_length=max_length)
        engine = Engine(model, max_batch_tokens=settings.max_batch_tokens)
        embedder = cls(engine, tokenizer, name=f"{folder.resolve().name}@{fingerprint}")
        embedder._self_check()
        logger.info(
            "serving %s: %.1f M parameters, %s on %s, %d tokens a text, %d a forward",
            embedder.name,
            sum(parameter.numel() for parameter in model.parameters()) / 1e6,
            str(dtype).removeprefix("torch."),
            device,
            max_length,
            engine.max_batch_tokens,
        )
        return embedder

    def encode_query(
        self,
        queries: str | Sequence[str],
        *,
        task: str = "web_search_query",
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """Embed queries under a task.

        Args:
            queries: one text or many.
            task: an instruction or a registered name; "" for none.
            normalize: L2-normalise the vectors.
            dimensions: keep the first n, before normalising.
            truncate: cut texts over `max_length`; False makes them an error.

        Returns:
            float32 `[num_queries, dimensions]` in input order; `[dimensions]` for one string.

        Raises:
            InputError: for a text that cannot be embedded, or `dimensions` out of range.
        """
        texts = _checked(queries, "queries", task)
        as_prompt = [prompts.query_prompt(task, query) for query in texts]
        vectors = self._encode(as_prompt, "queries", normalize, dimensions, truncate)
        return vectors[0] if isinstance(queries, str) else vectors

    def encode_document(
        self,
        documents: str | Sequence[str],
        *,
        task: str = "",
        symmetric: bool = False,
        normalize: bool = False,
        dimensions: int | None = None,
        truncate: bool = True,
    ) -> Vectors:
        """Embed documents: bare, or with the prompt of a symmetric task.

        Args:
            documents: one text or many.
            task: the task of the queries they will meet; matters only if it is symmetric.
            symmetric: the task is symmetric; registered symmetric tasks need not say so.
            normalize: as for queries.
            dimensions: as for queries.
            truncate: as for queries.

        Returns:
            float32 `[num_documents, dimensions]` in input order; `[dimensions]` for one string.

        Raises:
            InputError: for a text that cannot be embedded, or `dimensions` out of range.
        """
        texts = _checked(documents, "documents", task)
        as_prompt = [prompts.document_prompt(task, text, symmetric=symmetric) for text in texts]
        vectors = self._encode(as_prompt, "documents", normalize, dimensions, truncate)
        return vectors[0] if isinstance(documents, str) else vectors

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """Cosine x 100, float32 `[num_queries, num_documents]`.

        Raises:
            InputError: for vectors of different widths.
        """
        queries, documents = np.atleast_2d(queries), np.atleast_2d(documents)
        if queries.ndim != 2 or queries.shape[1:] != documents.shape[1:]:
            raise InputError(
                "documents",
                f"vectors of shape {documents.shape} for queries of {queries.shape}",
                "embed both with the same dimensions",
            )
        return cosine_scores(queries, documents)

    def tokenize(
        self, texts: Sequence[str], fields: Sequence[str], *, truncate: bool
    ) -> list[Encoding]:
        """Token ids of texts that already carry their prompts.

        Args:
            texts: what to tokenise.
            fields: the caller's name of each text, for errors.
            truncate: cut texts over `max_length`; False makes them an error.

        Raises:
            InputError: for a text too long when `truncate` is False.
        """
        encodings = self.tokenizer.encode(texts)
        for encoding, field in zip(encodings, fields, strict=True):
            if encoding.truncated and not truncate:
                raise InputError(
                    field,
                    f"a text of {encoding.num_tokens} tokens with truncate=false",
                    f"shorten it to {self.tokenizer.max_length} tokens or allow truncation",
                )
        return encodings

    def check_dimensions(self, dimensions: int | None) -> None:
        """Refuse more dimensions than the model has, or fewer than one.

        Raises:
            InputError: naming the range.
        """
        whole = isinstance(dimensions, int | np.integer) and not isinstance(dimensions, bool)
        if dimensions is not None and not (whole and 1 <= dimensions <= self.engine.hidden_size):
            raise InputError("dimensions", repr(dimensions), f"use 1 to {self.engine.hidden_size}")

    def embed(self, token_ids: Sequence[TokenIds]) -> Vectors:
        """The vector of each text's token ids, checked.

        Returns:
            float32 `[num_texts, hidden_size]`, in input order.

        Raises:
            NonFiniteError: naming the first text whose vector is not finite.
            OutOfMemoryError: for a text that does not fit in memory even alone.
        """
        vectors = self.engine.compute(token_ids)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise NonFiniteError(int(np.argmin(finite)))
        return vectors

    def _encode(
        self, texts: list[str], field: str, normalize: bool, dimensions: int | None, truncate: bool
    ) -> Vectors:
        self.check_dimensions(dimensions)
        fields = [f"{field}[{i}]" for i in range(len(texts))]
        encodings = self.tokenize(texts, fields, truncate=truncate)
        with naming(fields, encodings):
            vectors = self.embed([encoding.token_ids for encoding in encodings])
        return finish(vectors, dimensions=dimensions, normalize=normalize)

    def _self_check(self) -> None:
        """One forward must be finite, and each text's vector the same alone and in a batch."""
        texts = [encoding.token_ids for encoding in self.tokenizer.encode(SELF_CHECK_TEXTS)]
        try:
            together = self.embed(texts)
            alone = np.concatenate([self.embed([text]) for text in texts])
        except NonFiniteError as error:
            raise EngineError(f"self-check: {error}") from error
        cosines = np.diag(cosine_scores(together, alone)) / 100
        if cosines.min() < 0.999:
            raise EngineError(
                "self-check: a text's vector changes with its batch mates "
                f"(cosine {cosines.min():.4f}); this torch build's attention is not to be trusted."
            )


@contextmanager
def naming(fields: Sequence[str], encodings: Sequence[Encoding]) -> Iterator[None]:
    """Within, an engine's error about one of the texts gets the caller's name of that text."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(error.position, fields[error.position]) from error
    except OutOfMemoryError as error:
        lengths = [len(encoding.token_ids) for encoding in encodings]
        field = fields[lengths.index(error.num_tokens)]
        raise OutOfMemoryError(error.num_tokens, field) from error


def fingerprint_of(digests: Mapping[str, str], *, dtype: torch.dtype, max_length: int) -> str:
    """Twelve hex digits that change with anything that shapes a vector.

    Args:
        digests: sha256 of each file of the checkpoint.
        dtype: of the matrix products.
        max_length: tokens kept of a text.
    """
    ingredients = [dict(digests), RULE, max_length, prompts.TEMPLATE, str(dtype)]
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:12]


def _checked(texts: str | Sequence[str], field: str, task: str) -> list[str]:
    """The texts as a list; refuses what is no text, in them and in the task."""
    if not isinstance(texts, Iterable):
        raise InputError(field, repr(texts), "send a string or a list of strings")
    as_list = [texts] if isinstance(texts, str) else list(texts)
    named = {"task": task} | {f"{field}[{i}]": text for i, text in enumerate(as_list)}
    for name, text in named.items():
        if not isinstance(text, str):
            raise InputError(name, repr(text), "send a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            received = f"a lone surrogate (character {error.start})"
            raise InputError(name, received, "send valid Unicode") from error
    return as_list
