"""The student computes what the service computes, in training and as a checkpoint."""

import random
from pathlib import Path

import numpy as np
import torch
from small_corpus import VOCABULARY, student, tokenizer

from benchmarks.models import packed
from e5 import Embedder, Settings
from e5.forward import forward as packed_forward
from e5.packing import pack
from training.student import export, forward, principal_axes, unit
from training.texts import evaluation_texts


def test_training_computes_what_the_service_computes() -> None:
    rng = random.Random(0)
    model = student(2).eval()
    texts = [
        (1, *(rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, 90))), 2)
        for _ in range(70)
    ]
    with torch.no_grad():
        trained = forward(model, texts)
    served = packed_forward(packed(model), pack(texts))
    assert (trained - served).abs().max() < 1e-4 * served.abs().max()


def test_an_exported_student_is_a_checkpoint_like_any_other(tmp_path: Path) -> None:
    model = student(4).eval()
    export(model, tmp_path)
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    embedder = Embedder.load(Settings(weights=str(tmp_path), device="cpu", dtype="float32"))
    tokenized = embedder.tokenize(documents=evaluation_texts()[:20])
    ids = [each.token_ids for each in tokenized]
    with torch.no_grad():
        trained = forward(model, ids).numpy()
    served = embedder.compute(ids).vectors
    cosines = (unit(trained) * unit(served)).sum(axis=1)
    assert cosines.min() > 0.9999  # float16 weights


def test_principal_axes_hold_most_of_the_labels() -> None:
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((500, 100)) @ rng.standard_normal((100, 384))
    labels = unit(flat.astype(np.float32))
    axes = principal_axes(labels)
    kept = labels @ axes
    np.testing.assert_allclose(axes.T @ axes, np.eye(192), atol=1e-5)
    np.testing.assert_allclose(kept @ kept.T, labels @ labels.T, atol=1e-4)
