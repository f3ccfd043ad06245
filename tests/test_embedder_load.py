"""Loading: the name says all that shapes a vector, and what would give wrong ones is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import TEXTS, EditCheckpoint, load, save_checkpoint, save_tokenizer, true_ids
from declared import E5_FILES, write_files
from reference import Reference, assert_same
from safetensors.torch import load_file, save

from e5.checkpoint import CheckpointManifest, checkpoint_files, hash_files
from e5.embedder import Embedder
from e5.errors import TokenizerError
from e5.prompts import DEFAULT_TASK


class TestFingerprint:
    """The name changes with everything that shapes a vector, and with nothing else."""

    @pytest.mark.slow
    def test_it_changes_with_weights_tokenizer_dtype_and_length(
        self, checkpoint: Path, edit_checkpoint: EditCheckpoint, tmp_path: Path, embedder: Embedder
    ) -> None:
        def one_weight(tensors: dict[str, torch.Tensor]) -> None:
            tensors["norm.weight"][0] += 1e-3

        other_tokenizer = Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))
        save_tokenizer(other_tokenizer, "transformers4")
        names = [
            embedder.name,
            load(edit_checkpoint(checkpoint, one_weight)).name,
            load(other_tokenizer).name,
            load(checkpoint, dtype="bfloat16").name,
            load(checkpoint, max_length=100).name,
        ]
        assert len(set(names)) == len(names)

    @pytest.mark.slow
    def test_it_does_not_change_with_the_budget_or_the_place(
        self, checkpoint: Path, tmp_path: Path, embedder: Embedder
    ) -> None:
        assert load(checkpoint, max_batch_tokens=17, max_queue_tokens=3).name == embedder.name
        elsewhere = load(Path(shutil.copytree(checkpoint, tmp_path / "elsewhere")))
        folder, fingerprint = elsewhere.name.split("@")
        assert folder == "elsewhere"
        assert f"{checkpoint.name}@{fingerprint}" == embedder.name


class TestTemplate:
    """The prompt's template is the checkpoint's."""

    def test_queries_follow_the_manifest_documents_stay_bare(
        self, checkpoint: Path, tmp_path: Path, embedder: Embedder, reference: Reference
    ) -> None:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "own"))
        files = hash_files(folder, checkpoint_files(folder))
        CheckpointManifest("a test", files, template="{task} | {query}").write(folder)
        own = load(folder)
        truth = reference([true_ids("Find twins | snow"), true_ids("snow")])
        assert_same(own.encode_query("snow", task="Find twins"), truth[0])
        assert_same(own.encode_document("snow", task="Find twins", symmetric=True), truth[0])
        assert_same(own.encode_document("snow"), truth[1])
        assert_same(own.encode_query("snow", task=""), truth[1])
        assert own.name.split("@")[1] != embedder.name.split("@")[1]


class TestDeclarations:
    """What the folder says of itself is followed."""

    PROMPTS = "config_sentence_transformers.json"

    @pytest.fixture
    def folder(self, checkpoint: Path, tmp_path: Path) -> Path:
        """A copy to write into."""
        return Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))

    @pytest.mark.slow
    def test_its_prompts_reach_the_side_they_belong_to(
        self, folder: Path, embedder: Embedder, reference: Reference
    ) -> None:
        texts = {"query": "query: ", "passage": "passage: ", "law": "law: "}
        (folder / self.PROMPTS).write_text(json.dumps({"prompts": texts}))
        own = load(folder)
        truth = reference([true_ids(f"{start}snow") for start in ("query: ", "passage: ", "law: ")])
        assert_same(own.encode_query("snow"), truth[0])
        assert_same(own.encode_document("snow"), truth[1])
        assert_same(own.encode_query("snow", task="Law"), truth[2])
        assert own.name != embedder.name

    @pytest.mark.slow
    def test_e5s_own_files_change_nothing(self, folder: Path, embedder: Embedder) -> None:
        pooling = E5_FILES["1_Pooling/config.json"] | {"word_embedding_dimension": 64}
        files = {name: content for name, content in E5_FILES.items() if name != "config.json"}
        write_files(folder, files | {"1_Pooling/config.json": pooling})
        loaded = load(folder)
        assert (loaded.name, loaded.prompts) == (embedder.name, embedder.prompts)
        assert loaded.max_length == 4096

    @pytest.mark.slow
    def test_the_shortest_of_the_lengths_is_the_maximum(self, folder: Path) -> None:
        (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
        shorter = load(folder)
        assert (shorter.max_length, load(folder, max_length=9).max_length) == (20, 9)
        assert len(shorter.tokenize(documents=["snow " * 50])[0].token_ids) == 20
        (folder / "sentence_bert_config.json").unlink()
        assert shorter.name == load(folder, max_length=20).name

    @pytest.mark.slow  # imports sentence-transformers
    @pytest.mark.parametrize(
        ("texts", "include_prompt"),
        [
            ({"query": "query: ", "document": "passage: "}, True),
            ({"query": "Instruct: Find statutes.\nQuery: ", "sts_query": "STS: "}, False),
            ({"query": f"Instruct: {DEFAULT_TASK}\nQuery:", "law": "Law: "}, True),
        ],
    )
    def test_the_vectors_are_those_of_sentence_transformers(
        self, tmp_path: Path, texts: dict[str, str], include_prompt: bool
    ) -> None:
        peer = pytest.importorskip("sentence_transformers", reason="the benchmark's peer")
        from sentence_transformers.sentence_transformer.modules import (
            Normalize,
            Pooling,
            Transformer,
        )

        folder = save_checkpoint(tmp_path / "base", style="transformers4")  # which adds </s>
        pooling = Pooling(64, pooling_mode="lasttoken", include_prompt=include_prompt)
        whole = [Transformer(str(folder), max_seq_length=40), pooling, Normalize()]
        peer.SentenceTransformer(modules=whole, prompts=texts, device="cpu").save(
            str(tmp_path / "saved"), create_model_card=False
        )
        theirs = peer.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
        ours = load(tmp_path / "saved")
        assert_same(ours.encode_query(TEXTS, normalize=True), theirs.encode_query(TEXTS))
        assert_same(ours.encode_document(TEXTS, normalize=True), theirs.encode_document(TEXTS))
        for name in texts.keys() - {"query", "document"}:
            expected = theirs.encode(TEXTS, prompt_name=name)
            assert_same(ours.encode_query(TEXTS, task=name, normalize=True), expected)


class TestTokenizerAtLoading:
    """A checkpoint whose token ids are wrong is not served."""

    @pytest.fixture
    def folder(self, checkpoint: Path, tmp_path: Path) -> Path:
        """A copy to damage."""
        return Path(shutil.copytree(checkpoint, tmp_path / "damaged"))

    def test_a_damaged_tokenizer_is_refused(self, folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        vocab = content["model"]["vocab"]
        vocab["▁Paris"], vocab["▁London"] = vocab["▁London"], vocab["▁Paris"]
        (folder / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(TokenizerError, match="'The capital of France is Paris'"):
            load(folder)

    @pytest.mark.slow
    def test_a_tokenizer_that_misses_the_manifests_ids_is_refused(self, folder: Path) -> None:
        files = hash_files(folder, checkpoint_files(folder))
        CheckpointManifest("a test", files, {"snow": true_ids("snow")}).write(folder)
        load(folder)
        CheckpointManifest("a test", files, {"snow": true_ids("rain")}).write(folder)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: it turns 'snow' into"):
            load(folder)


@pytest.mark.slow
def test_any_style_of_saved_tokenizer_gives_the_same_vectors(
    tmp_path: Path, embedder: Embedder
) -> None:
    folder = save_checkpoint(tmp_path / "small", style="transformers5")
    assert_same(load(folder).encode_query(TEXTS), embedder.encode_query(TEXTS))


def test_a_tokenizer_that_gives_ids_the_model_does_not_know_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 31_000}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors["embed_tokens.weight"] = tensors["embed_tokens.weight"][:31_000].clone()
    (folder / "model.safetensors").write_bytes(save(tensors))
    with pytest.raises(
        TokenizerError, match="it gives ids up to 31999, and the model has 31000 tokens"
    ):
        load(folder)
