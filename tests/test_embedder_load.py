"""Loading: the name says all that shapes a vector, and what would give wrong ones is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import TEXTS, EditCheckpoint, load, save_checkpoint, save_tokenizer, true_ids
from reference import Reference, assert_same
from safetensors.torch import load_file, save

from e5.checkpoint import CheckpointManifest, checkpoint_files, hash_files
from e5.embedder import Embedder
from e5.errors import TokenizerError


class TestFingerprint:
    """The name changes with everything that shapes a vector, and with nothing else."""

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

    def test_a_tokenizer_that_misses_the_manifests_ids_is_refused(self, folder: Path) -> None:
        files = hash_files(folder, checkpoint_files(folder))
        CheckpointManifest("a test", files, {"snow": true_ids("snow")}).write(folder)
        load(folder)
        CheckpointManifest("a test", files, {"snow": true_ids("rain")}).write(folder)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: it turns 'snow' into"):
            load(folder)


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
