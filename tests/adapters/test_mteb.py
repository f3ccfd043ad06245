"""mteb asks each task under its instruction, on the right side; and its own mock run passes."""

from typing import Any

import numpy as np
import pytest
from adapter_contract import AWKWARD, MANY, WHOLE, assert_close

from e5.embedder import Embedder
from e5.encoder import Encoder
from e5.errors import InputError

pytest.importorskip("mteb", reason="mteb is not installed")

import mteb
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType
from torch.utils.data import DataLoader

from e5.adapters.mteb import E5Encoder

pytestmark = [
    # mteb 2.26 copies a tensor with torch.tensor(), which torch advises against.
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning"),
    # Its mock tasks have so few texts that a class may never be predicted.
    pytest.mark.filterwarnings("ignore:Precision is ill-defined"),
]

QUERIES = ["what is snow", "what is amber", "what is a summit"]
DOCUMENTS = ["Amber is resin.", "A summit is a mountain top.", "Snow is frozen water.", "a"]
RELEVANT = [2, 0, 1]


def rows(column: str, values: list[str]) -> Any:
    """A data set with ids from 0 on."""
    datasets: Any = pytest.importorskip("datasets")  # of mteb, without types
    return datasets.Dataset.from_list(
        [{"id": f"{i}", column: value} for i, value in enumerate(values)]
    )


class Local(AbsTaskRetrieval):
    """A retrieval task of three queries."""

    metadata = TaskMetadata(
        name="LocalRetrieval",
        description="",
        dataset={"path": "local", "revision": "1"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        prompt="Find what explains a word",
    )

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002
        split: Any = {
            "queries": rows("text", QUERIES),
            "corpus": rows("text", DOCUMENTS),
            "relevant_docs": {f"{i}": {f"{j}": 1} for i, j in enumerate(RELEVANT)},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def encode(
    encoder: Encoder, of: str, side: PromptType | None, texts: list[str], **options: Any
) -> Any:
    """What the adapter answers one of mteb's tasks, which hands over batches."""
    batches: Any = DataLoader([{"text": text} for text in texts], batch_size=32)  # type: ignore[arg-type]
    return E5Encoder(encoder, **options).encode(
        batches,
        task_metadata=mteb.get_task(of).metadata,
        hf_split="test",
        hf_subset="default",
        prompt_type=side,
    )


SCIFACT = "Given a scientific claim, retrieve documents that support or refute the claim"
DUPLICATES = "Retrieve duplicate questions from AskUbuntu forum"
INTENTS = "Given a online banking query, find the corresponding intents"
ARGUMENTS = "Given a question, retrieve detailed and persuasive arguments that answer the question"
SUMMARIES = "Given a news summary, retrieve other semantically similar summaries"
STACKEXCHANGE = (
    "Given a question, retrieve detailed question descriptions from Stackexchange that are "
    "duplicates to the given question"
)


@pytest.mark.parametrize(
    ("task", "side", "instruction"),
    [
        ("SciFact", PromptType.query, SCIFACT),
        ("SciFact", PromptType.document, ""),
        ("AskUbuntuDupQuestions", PromptType.query, DUPLICATES),
        ("AskUbuntuDupQuestions", PromptType.document, DUPLICATES),  # symmetric
        ("Banking77Classification", None, INTENTS),
        ("STS12", None, "Retrieve semantically similar text."),
        ("Tatoeba", None, "Retrieve parallel sentences."),
        ("SummEvalSummarization.v2", None, SUMMARIES),  # mteb's has a full stop
        ("CQADupstackAndroidRetrieval", PromptType.query, STACKEXCHANGE),  # mteb's is another
        ("CQADupstackAndroidRetrieval", PromptType.document, ""),
        ("NanoTouche2020Retrieval", PromptType.query, ARGUMENTS),  # the authors have none
        ("NanoTouche2020Retrieval", PromptType.document, ""),
    ],
)
def test_a_task_has_its_instruction_on_the_right_sides(
    encoder: Encoder, task: str, side: PromptType | None, instruction: str
) -> None:
    truth = encoder.encode_query(AWKWARD, task=instruction, **WHOLE)
    assert_close(encode(encoder, task, side, AWKWARD), truth)


def test_a_task_given_counts_everywhere(encoder: Encoder) -> None:
    for side in (PromptType.query, PromptType.document, None):
        vectors = encode(encoder, "SciFact", side, AWKWARD, task="sts_query")
        assert_close(vectors, encoder.encode_query(AWKWARD, task="sts_query", **WHOLE))
    bare = encode(encoder, "STS12", None, AWKWARD, task="")
    assert_close(bare, encoder.encode_document(AWKWARD, **WHOLE))


def test_vectors_are_as_long_and_as_wide_as_asked(encoder: Encoder) -> None:
    whole = encode(encoder, "SciFact", PromptType.document, AWKWARD, normalize=False)
    assert_close(whole, encoder.encode_document(AWKWARD))
    narrow = encode(encoder, "SciFact", PromptType.document, AWKWARD, dimensions=8)
    assert_close(narrow, encoder.encode_document(AWKWARD, dimensions=8, **WHOLE))


def test_order_is_kept_over_batches(encoder: Encoder) -> None:
    vectors = encode(encoder, "SciFact", PromptType.document, MANY)
    assert_close(vectors, encoder.encode_document(MANY, **WHOLE))


@pytest.mark.parametrize("texts", [["", "snow", " \n", "ice"], ["", ""]])
def test_a_blank_text_of_a_data_set_is_like_nothing(encoder: Encoder, texts: list[str]) -> None:
    vectors = encode(encoder, "SciFact", PromptType.document, texts)
    for vector, text in zip(vectors, texts, strict=True):
        if text.strip():
            assert_close(vector[None], encoder.encode_document([text], **WHOLE))
        else:
            assert not vector.any()


def test_errors_come_through_with_their_sentence(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"^documents\[1\]: received a lone surrogate"):
        encode(encoder, "SciFact", PromptType.document, ["a", "\ud800"])
    with pytest.raises(InputError, match=r"^precision: received int8; leave it out\.$"):
        mteb.evaluate(E5Encoder(encoder), Local(), cache=None, encode_kwargs={"precision": "int8"})


@pytest.mark.parametrize("options", [{}, {"task": "Find"}, {"dimensions": 16}])
def test_a_score_is_that_of_the_encoder_s_own_cosines(
    encoder: Encoder, options: dict[str, Any]
) -> None:
    (result,) = mteb.evaluate(E5Encoder(encoder, **options), Local(), cache=None).task_results
    options = {"task": "Find what explains a word", **options}
    cosines = encoder.similarity(
        encoder.encode_query(QUERIES, **options), encoder.encode_document(DOCUMENTS, **options)
    )
    ranks = [
        int((row > row[relevant]).sum()) for row, relevant in zip(cosines, RELEVANT, strict=True)
    ]
    truth = np.mean([1 / np.log2(2 + rank) for rank in ranks])
    assert result.scores["test"][0]["ndcg_at_10"] == pytest.approx(truth, abs=1e-5)


def test_similarity_is_the_cosine(embedder: Embedder) -> None:
    model = E5Encoder(embedder, normalize=False)
    vectors = embedder.encode_document(AWKWARD)
    truth = embedder.similarity(vectors, vectors) / 100
    assert np.allclose(model.similarity(vectors, vectors), truth, atol=1e-5)
    assert np.allclose(model.similarity_pairwise(vectors, vectors), 1, atol=1e-5)


def test_results_are_kept_by_weights_and_options(embedder: Embedder) -> None:
    folder, _, fingerprint = embedder.name.partition("@")
    meta = E5Encoder(embedder).mteb_model_meta
    assert (meta.name, meta.revision) == (f"e5-mistral-service/{folder}", fingerprint)
    assert (meta.embed_dim, meta.experiment_name) == (embedder.dimensions, None)
    others: list[dict[str, Any]] = [{"task": ""}, {"normalize": False}, {"dimensions": 8}]
    names = {E5Encoder(embedder, **other).mteb_model_meta.experiment_name for other in others}
    assert names == {"task_", "normalize_False", "dimensions_8"}


@pytest.mark.slow
@pytest.mark.long
def test_mteb_s_mock_run_passes(embedder: Embedder) -> None:
    run = mteb.mock_run(E5Encoder(embedder))
    assert run.all_passed, run.to_markdown()
    assert sum(result is not None for _, result in run.items()) >= 28
