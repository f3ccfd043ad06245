"""An `mteb` encoder over any `Encoder`, for the benchmarks of mteb.

Each task has the instruction of the model's authors, or else that of mteb. Queries get its prompt;
so do documents of symmetric tasks, and all texts of tasks without queries, such as classification.
"""

from typing import Any, Unpack

import numpy as np
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import BatchedInput, EncodeKwargs, PromptType
from torch.utils.data import DataLoader

from e5.encoder import Encoder
from e5.errors import InputError
from e5.prompts import resolve_task
from e5.vectors import Vectors

_TASK_BY_TYPE = {
    "BitextMining": "bitext_query",
    "STS": "sts_query",
    "Summarization": "summarization_query",
}


class E5Encoder(AbsEncoder):
    """Encodes for mteb; scores are cosines.

    mteb keeps results by the model's name and revision, which are the folder of the weights and the
    fingerprint, and by the options that differ from the defaults.

    Args:
        encoder: what computes the vectors.
        task: the task of all mteb tasks; None gives each its own.
        normalize: L2-normalise the vectors, as the model's authors do.
        dimensions: keep the first n, before normalising; None keeps all.

    Example:
        >>> mteb.evaluate(E5Encoder(Client("http://127.0.0.1:5000")), mteb.get_task("SciFact"))
    """

    mteb_model_meta: ModelMeta

    def __init__(
        self,
        encoder: Encoder,
        *,
        task: str | None = None,
        normalize: bool = True,
        dimensions: int | None = None,
    ) -> None:
        """Read the encoder's name; ServiceError if a `Client` cannot reach its service."""
        self.encoder, self.task = encoder, task
        self.options: dict[str, Any] = {"normalize": normalize, "dimensions": dimensions}
        name, _, fingerprint = encoder.name.rpartition("@")
        defaults = {"task": None, "normalize": True, "dimensions": None}
        options = {"task": task, **self.options}
        changed = {key: value for key, value in options.items() if value != defaults[key]}
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": f"e5-mistral-service/{name}",
                "revision": fingerprint,
                "embed_dim": encoder.dimensions if dimensions is None else dimensions,
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": True,
                "experiment_kwargs": changed or None,
            }
        )

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,  # noqa: ARG002  # mteb's signature
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,
        **kwargs: Unpack[EncodeKwargs],
    ) -> Vectors:
        """The vectors of one side of a task, float32 `[num_texts, dimensions]`, in order.

        Data sets hold blank texts, which no encoder accepts: their vectors are zeros. mteb's batch
        size and progress bar are ignored; a `precision` is an InputError.
        """
        if "precision" in kwargs:
            raise InputError("precision", str(kwargs["precision"]), "leave it out")
        is_document = prompt_type == PromptType.document
        name = _TASK_BY_TYPE.get(task_metadata.type, task_metadata.name)
        task = name if self.task is None else self.task
        if self.task is None and not is_document and resolve_task(name).instruction == name:
            # The authors have no instruction for it.
            task = self.get_instruction(task_metadata, prompt_type)
        texts = [text for batch in inputs for text in batch["text"]]
        filled = [i for i, text in enumerate(texts) if text.strip()]
        encode = self.encoder.encode_document if is_document else self.encoder.encode_query
        computed = encode([texts[i] for i in filled], task=task, **self.options)
        vectors = np.zeros((len(texts), computed.shape[1]), np.float32)
        vectors[filled] = computed
        return vectors
