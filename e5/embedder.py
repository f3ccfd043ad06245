"""The only path from texts to vectors: combines a checkpoint's prompts, tokenizer and engine."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from e5.checkpoint import CONFIG, TOKENIZER, Checkpoint, weight_bytes
from e5.device import MIN_CAPABILITY, ForkGuard, choose_device, choose_dtype, set_threads
from e5.engine import MAX_CUDA_BATCH_TOKENS, Engine
from e5.errors import NonFiniteError, OutOfMemoryError, SettingsError, TextError
from e5.lora import LoraAdapter
from e5.mistral import Config, Mistral
from e5.placement import MemoryNeeds, choose_streamed_layers
from e5.prompt_tokenizer import PromptTokenizer
from e5.prompts import DEFAULT_TASK, E5_PROMPTS, Prompts
from e5.quantization import QUANTISED_BY
from e5.reference import load_reference
from e5.self_check import self_check
from e5.settings import Settings
from e5.texts import check_flag, check_task, check_texts
from e5.tokenizer import MISTRAL_GOLDENS, MISTRAL_VOCAB_SIZE, TokenIds, TokenizedText, Tokenizer
from e5.vectors import Vectors, check_dimensions, finish, similarity
from e5.weights import load_model

logger = logging.getLogger(__name__)

_WORDS = ["Snow", "rain", "hail", "sleet", "frost", "fog", "dew", "mist", "cloud", "storm", "wind"]
# Queries and documents of one word, a query of about 350 tokens behind the shared prompt, and a
# document of more than 200.
SELF_CHECK = ([*_WORDS, " ".join(_WORDS * 27)], [*_WORDS, " ".join(_WORDS * 18)])


@dataclass(frozen=True)
class Computed:
    """The vectors of a list of texts, and the texts that have none.

    Attributes:
        vectors: float32 `[num_texts, dimensions]`, in input order; ignore the rows of faults.
        faults: the error of each text without a vector, by the text's position.
    """

    vectors: Vectors
    faults: Mapping[int, TextError] = field(default_factory=dict)


class Embedder:
    """A loaded checkpoint that turns texts into vectors. An `Encoder`.

    Attributes:
        name: the checkpoint's folder name and the fingerprint of everything that shapes a vector.
        prompts: the template of a query's prompt, and the model's own prompts.
        prompt_tokenizer: the prompts and the tokenizer, for those who only count tokens.
        dimensions: dimensions of a whole vector.
        max_length: maximum tokens of a text, `<s>` and `</s>` included; longer ones are truncated.
        max_batch_tokens: maximum tokens computed in one forward.
        launches_ahead: see `Engine`.

    Example:
        >>> embedder = Embedder.load(Settings(weights="weights/e5-mini"))
        >>> queries = embedder.encode_query(["how much protein should a female eat"])
        >>> documents = embedder.encode_document(["46 grams a day.", "A summit is a mountain top."])
        >>> embedder.similarity(queries, documents).shape
        (1, 2)
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, *, name: str, prompts: Prompts = E5_PROMPTS
    ) -> None:
        self.name, self.prompts = name, prompts
        self.prompt_tokenizer = PromptTokenizer(tokenizer, prompts)
        self.dimensions, self.max_length = engine.hidden_size, tokenizer.max_length
        self.max_batch_tokens, self.launches_ahead = engine.max_batch_tokens, engine.launches_ahead
        self._engine = engine
        self._forward_lock, self._fork_guard = threading.Lock(), ForkGuard()

    @classmethod
    def load(cls, settings: Settings) -> "Embedder":
        """Load and verify a checkpoint, then run a self-check.

        Raises:
            WeightsError: the folder is missing, incomplete, damaged or not a Mistral checkpoint, or
                the adapter does not fit the checkpoint.
            TokenizerError: the tokenizer does not give the ids the model was trained on.
            SettingsError: the device cannot be used on this machine or has too little memory, or
                the engine does not do what is set.
            EngineError: the model's vectors are not finite, or depend on the rest of their batch.
        """
        folder, packed = Path(settings.weights), settings.engine == "packed"
        # The device is checked before 14 GB are read.
        device = choose_device(
            settings.device,
            weight_bytes=weight_bytes(folder),
            min_capability=MIN_CAPABILITY if packed else (0, 0),
        )
        checkpoint = Checkpoint.find(folder)
        tokenizer = Tokenizer(folder / TOKENIZER, max_length=settings.max_length)
        if checkpoint.manifest is None:
            logger.warning("%s has no manifest.json: its files were not verified", settings.weights)
        else:
            tokenizer.check(checkpoint.manifest.goldens)
        dtype = choose_dtype(settings.dtype, device)
        set_threads(settings.threads)
        adapter = None if settings.adapter is None else LoraAdapter.read(Path(settings.adapter))
        config = Config.read(folder / CONFIG, quantised_by=None if packed else QUANTISED_BY)
        if tokenizer.vocab_size > config.vocab_size:
            largest, known = tokenizer.vocab_size - 1, config.vocab_size
            raise tokenizer.error(f"it gives ids up to {largest}, and the model has {known} tokens")
        if config.vocab_size == MISTRAL_VOCAB_SIZE:
            tokenizer.check(MISTRAL_GOLDENS)
        declared = [checkpoint.declarations, *([] if adapter is None else [adapter.declarations])]
        limits = [settings.max_length, config.max_position_embeddings, config.sliding_window]
        limits += [declarations.max_length for declarations in declared]
        length = tokenizer.max_length = min(limit for limit in limits if limit is not None)
        prompts = declared[-1].prompts or checkpoint.prompts
        fingerprint = checkpoint.fingerprint(
            dtype=str(dtype),
            max_length=length,
            prompts=prompts,
            adapter=None if adapter is None else adapter.digests,
            engine=() if packed else (settings.engine, settings.quantize),
        )
        name = f"{checkpoint.name}@{fingerprint}"
        engine = _load_engine(checkpoint, config, settings, length, device, dtype, adapter)
        embedder = cls(engine, tokenizer, name=name, prompts=prompts)
        self_check(engine, [each.token_ids for each in embedder.tokenize(*SELF_CHECK)])
        millions = sum(weight.numel() for weight in Mistral(config).parameters()) / 1e6
        stored = settings.quantize or str(dtype).removeprefix("torch.")
        size = f"{millions:.1f} M parameters, {stored} on {device}, {settings.engine}"
        budgets = f"{length} tokens a text, {engine.max_batch_tokens} a forward"
        logger.info("serving %s: %s, %s", name, size, budgets)
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
        """See `Encoder.encode_query`.

        Raises:
            TextError: for a text that has no finite vector, or does not fit in memory.
        """
        flags = {"normalize": normalize, "truncate": truncate}
        return self._encode("queries", queries, task, dimensions, flags)

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
        """See `Encoder.encode_document`; raises TextError as `encode_query` does."""
        flags = {"symmetric": symmetric, "normalize": normalize, "truncate": truncate}
        return self._encode("documents", documents, task, dimensions, flags)

    def _encode(
        self,
        side: str,
        given: str | Sequence[str],
        task: str,
        dimensions: int | None,
        flags: Mapping[str, bool],
    ) -> Vectors:
        """The vectors of what was given for the queries or the documents, all of it checked."""
        texts, fields = check_texts(given, side)
        check_dimensions(dimensions, self.dimensions)
        for name, flag in flags.items():
            check_flag(flag, name)
        tokenized = self.tokenize(
            texts if side == "queries" else (),
            texts if side == "documents" else (),
            task=check_task(task),
            symmetric=flags.get("symmetric", False),
            fields=fields,
            truncate=flags["truncate"],
        )
        computed = self.compute([each.token_ids for each in tokenized])
        for position, fault in computed.faults.items():
            raise fault.at(position, fields[position])
        vectors = finish(computed.vectors, dimensions, normalize=flags["normalize"])
        return vectors[0] if isinstance(given, str) else vectors

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """See `Encoder.similarity`."""
        return similarity(queries, documents)

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
        """See `PromptTokenizer.tokenize`."""
        return self.prompt_tokenizer.tokenize(
            queries,
            documents,
            task=task,
            symmetric=symmetric,
            fields=fields,
            truncate=truncate,
            one_by_one=one_by_one,
        )

    def compute(
        self, sequences: Sequence[TokenIds], *, launched: Callable[[], object] = lambda: None
    ) -> Computed:
        """The vector of each text's token ids, checked.

        A text whose vector is not finite, or that does not fit in memory even alone, is returned as
        a fault; all other texts get their vectors. `launched` is called before each wait for a
        card, so what it does delays no forward.

        Raises:
            EngineError: in a process that was forked after the model was loaded.
        """
        self._fork_guard.check()
        with self._forward_lock:  # two forwards at a time would share the memory of one
            self._engine.launched = launched
            return self._compute(sequences, share_prefixes=True)

    def _compute(self, sequences: Sequence[TokenIds], *, share_prefixes: bool) -> Computed:
        try:
            vectors = self._engine.compute(sequences, share_prefixes=share_prefixes)
        except OutOfMemoryError as error:  # one text is too large: halve until it is alone
            if len(sequences) == 1:
                return Computed(np.zeros((1, self.dimensions), np.float32), {0: error})
            half = len(sequences) // 2
            first = self._compute(sequences[:half], share_prefixes=share_prefixes)
            second = self._compute(sequences[half:], share_prefixes=share_prefixes)
            faults = _at_positions(second.faults, range(half, len(sequences)))
            vectors = np.concatenate((first.vectors, second.vectors))
            return Computed(vectors, {**first.faults, **faults})
        infinite = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
        if infinite and share_prefixes:
            # One text's NaN spreads to the texts that share its prefix: attention gives the tokens
            # after the prefix a weight of 0, and 0 x NaN is NaN. So compute them without sharing.
            again = self._compute([sequences[i] for i in infinite], share_prefixes=False)
            vectors[infinite] = again.vectors
            return Computed(vectors, _at_positions(again.faults, infinite))
        return Computed(vectors, {position: NonFiniteError(position) for position in infinite})


def _load_engine(
    checkpoint: Checkpoint,
    config: Config,
    settings: Settings,
    max_length: int,
    device: torch.device,
    dtype: torch.dtype,
    adapter: LoraAdapter | None,
) -> Engine:
    """The engine that is set, with the checkpoint's weights; SettingsError if they do not fit."""
    try:
        if settings.engine == "packed":
            budget = settings.max_batch_tokens
            batch_tokens = budget or MAX_CUDA_BATCH_TOKENS
            needs = MemoryNeeds.of(config, dtype, max_length=max_length, batch_tokens=batch_tokens)
            streamed = choose_streamed_layers(needs, device, settings.card_gb)
            model = load_model(
                checkpoint, device=device, dtype=dtype, adapter=adapter, streamed=streamed
            )
            return Engine(model, max_batch_tokens=budget, compiled=settings.compile)
        return load_reference(
            checkpoint, config, settings, device=device, dtype=dtype, adapter=adapter
        )
    except (torch.OutOfMemoryError, OutOfMemoryError) as error:
        received = f"{settings.engine!r}, for which {device} has too little memory"
        remedy = "set E5_ENGINE=transformers, or E5_CARD_GB to less, or E5_QUANTIZE (docs/cards.md)"
        raise SettingsError("E5_ENGINE", received, remedy) from error


def _at_positions(
    faults: Mapping[int, TextError], positions: Sequence[int]
) -> dict[int, TextError]:
    """The faults of a part of the texts, at their positions in the whole list."""
    return {positions[i]: fault.at(positions[i]) for i, fault in faults.items()}
