"""The steps about vectors: loading, fidelity, the unmodified model, odd texts, memory."""

import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import psutil
import torch

from acceptance.candidate import Candidate
from acceptance.lines import Line, at_least, at_most, in_digits, not_run, passes
from benchmarks.rounds import peak_gib, reset_peak
from benchmarks.texts import english_words
from e5.checkpoint import CONFIG, weight_bytes
from e5.embedder import Embedder
from e5.vectors import Vectors, cosine_scores

LEAST_COSINE = 0.999
# Each has broken a tokenizer or a kernel somewhere.
ODD_TEXTS = [
    *("a", ".", "\u200b.", "\x00\x01\x1b[31m", "</s>", "<s> <unk> </s>", "Instruct: \nQuery: "),
    *("🦜" * 300, "e\u0301" * 500, "雪は凍った水です。" * 40, "ثلج ماء متجمد " * 60, "न" * 700),
    *("\n" * 2000 + "x", "a" * 9000, "0123456789 " * 900, "{}[]()<>" * 500, "\ufffd\ufdd0" * 50),
    *("https://example.org/?q=%20" * 99, "if x:\n\treturn -1\n" * 200, "A\u202eB" * 400),
]


def loading(candidate: Candidate) -> Sequence[Line]:
    """Load the checkpoint and time the self-check."""
    seconds: list[float] = []
    with _self_checks(seconds):
        started = time.perf_counter()
        embedder = candidate.load()
        taken = time.perf_counter() - started
    check = Line("self-check", in_digits(round(seconds[0], 2), " s"))
    if candidate.on_a_card and candidate.packed:
        check = at_most("self-check", seconds[0], 1, " s")
    limits = f"{embedder.max_length} tokens a text, {embedder.max_batch_tokens} a forward"
    return [
        Line("model", f"{embedder.name}, {embedder.dimensions} dimensions"),
        Line("limits", limits),
        Line("loaded in", in_digits(round(taken, 2), " s")),
        check,
    ]


@contextmanager
def _self_checks(seconds: list[float]) -> Iterator[None]:
    """Collect the seconds that the self-check logs."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.args, tuple):
                seconds.extend(x for x in record.args if isinstance(x, float))

    logger, collector = logging.getLogger("e5.self_check"), Collector()
    logger.setLevel(logging.INFO)
    logger.addHandler(collector)
    yield
    logger.removeHandler(collector)


def fidelity(candidate: Candidate) -> Sequence[Line]:
    """Compare dtypes of 16 bits on the device with float32 on the CPU, for a few texts."""
    needed, free = 2 * weight_bytes(candidate.weights) * 1.1, psutil.virtual_memory().available
    texts = random_texts(candidate.workload.beside_float32)
    found = {dtype: _embed(candidate.load(dtype=dtype), texts) for dtype in candidate.dtypes}
    lines = []
    if len(found) > 1:
        lines = [_cosine_line(" and ".join(found), *found.values())]
    if needed > free:
        why = f"needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        return [*lines, not_run("beside float32 on the CPU", why)]
    truth = _embed(candidate.load(dtype="float32", device="cpu"), texts)
    return [*(_cosine_line(f"{dtype} and float32", found[dtype], truth) for dtype in found), *lines]


def unmodified(candidate: Candidate) -> Sequence[Line]:
    """Compare our own engine with the unmodified model on the same device."""
    if not candidate.packed:
        return [not_run("our own engine beside it", f"the engine is {candidate.engine}")]
    texts = random_texts(candidate.workload.beside_float32)
    texts += [" ".join(random_texts(sentences)) for sentences in candidate.workload.sentences]
    lines = []
    for dtype in candidate.dtypes:
        # One after the other, because a card may not hold both.
        ours = _together_and_alone(candidate.load(dtype=dtype), texts)
        theirs = _together_and_alone(candidate.load(dtype=dtype, engine="transformers"), texts)
        lines += [_cosine_line(f"{dtype}, {how}", ours[how], theirs[how]) for how in ours]
    return lines


def _together_and_alone(embedder: Embedder, texts: Sequence[str]) -> dict[str, Vectors]:
    """Embed documents in batches, and again each in a forward of its own."""
    alone = [embedder.encode_document(text) for text in texts]
    return {"in batches": _embed(embedder, texts), "alone": np.stack(alone)}


def _cosine_line(what: str, ours: Vectors, theirs: Vectors) -> Line:
    least = float(np.diag(cosine_scores(ours, theirs)).min()) / 100
    return at_least(f"{what}: least cosine of {len(ours)} texts", least, LEAST_COSINE)


def _embed(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    half = len(texts) // 2
    vectors = [embedder.encode_query(texts[:half]), embedder.encode_document(texts[half:])]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return np.concatenate(vectors)


def odd_texts(candidate: Candidate) -> Sequence[Line]:
    """Check that the vectors of long and odd texts are finite."""
    embedder = candidate.load()
    # Each has more tokens than the model reads.
    long = [" ".join(random_texts(400, seed)) for seed in range(candidate.workload.too_long)]
    tokenized = embedder.tokenize(documents=[*ODD_TEXTS, *long])
    computed = embedder.compute([each.token_ids for each in tokenized])
    finite = bool(np.isfinite(computed.vectors).all())
    count = f"{len(computed.faults)} of {len(tokenized)} texts"
    truncated = sum(each.truncated for each in tokenized)
    return [
        passes("texts whose vector is not finite", count, not computed.faults and finite, "0"),
        Line("of them too long, and truncated", str(truncated)),
    ]


def memory(candidate: Candidate) -> Sequence[Line]:
    """Compare the peak of memory in full forwards with the estimate in deploy.md."""
    device = torch.device(candidate.device)
    embedder = candidate.load()
    config = json.loads((candidate.weights / CONFIG).read_text(encoding="utf-8-sig"))
    size = weight_bytes(candidate.weights)
    # A token needs two float32 residual streams, and two inputs and two MLP halves in 16 bits.
    token_bytes = 12 * config["hidden_size"] + 4 * config["intermediate_size"]
    estimate = (size + token_bytes * embedder.max_batch_tokens) / 2**30
    reset_peak(device)
    embedder.encode_document(random_texts(candidate.workload.in_memory))
    embedder.encode_document(" ".join(random_texts(400)))
    peak = peak_gib(device)
    if not candidate.on_a_card:
        return [Line("peak of the process", in_digits(round(peak, 2), " GiB"))]
    free, total = torch.cuda.mem_get_info(device)
    taken = (total - free) / 2**30
    peak_line = Line("peak of tensors", in_digits(peak, " GiB"))
    if candidate.packed:
        peak_line = at_most("peak of tensors", peak, 1.1 * estimate, " GiB")
    return [
        peak_line,
        Line("estimated for our own engine", in_digits(estimate, " GiB")),
        Line("taken of the card, with context and reserves", in_digits(taken, " GiB")),
    ]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 5 to 60 random English words."""
    rng, words = random.Random(seed), english_words()
    return [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(count)]
