"""Quantised weights cost what the docs say, and have another fingerprint than whole ones."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import EditCheckpoint, load
from reference import assert_same

from e5.checkpoint import CONFIG, Checkpoint
from e5.embedder import Embedder
from e5.errors import SettingsError, WeightsError
from e5.mistral import Config
from e5.quantization import QUANTISED_BY
from e5.reference import ReferenceEngine, load_reference
from e5.settings import Settings
from e5.vectors import cosine_scores

ROOT = Path(__file__).parent.parent
MINI = ROOT / "weights/e5-mini"
TEXTS = ["how much protein should a female eat", "Snow is frozen water.", "snow " * 200]

# Those of bitsandbytes while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def quantised() -> dict[str, Embedder]:
    """The built-in checkpoint, quantised while it was loaded."""
    pytest.importorskip("bitsandbytes", reason="it comes with the extra quantize")
    return {name: load(MINI, engine="transformers", quantize=name) for name in ("int8", "nf4")}


@pytest.fixture(scope="module")
def folders(
    quantised: dict[str, Embedder], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Checkpoints of quantised weights, as transformers saves them."""
    found = {}
    for name, embedder in quantised.items():
        found[name] = tmp_path_factory.mktemp("quantised") / name
        model: Any = embedder._engine.model
        model.save_pretrained(found[name])
        shutil.copy(MINI / "tokenizer.json", found[name])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("int8", 0.997), ("nf4", 0.92)])
def test_it_costs_as_much_as_the_docs_say(
    quantised: dict[str, Embedder], name: str, least: float
) -> None:
    truth, found = load(MINI).encode_query(TEXTS), quantised[name].encode_query(TEXTS)
    cosine = float(np.diag(cosine_scores(found, truth)).min()) / 100
    assert least <= cosine < 0.9999


def test_the_name_tells_them_apart(quantised: dict[str, Embedder]) -> None:
    whole = load(MINI, engine="transformers")
    assert len({embedder.name for embedder in (*quantised.values(), whole)}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_checkpoint_that_was_quantised_before_gives_the_same_vectors(
    quantised: dict[str, Embedder], folders: dict[str, Path], name: str
) -> None:
    found = load(folders[name], engine="transformers")
    assert_same(found.encode_query(TEXTS), quantised[name].encode_query(TEXTS))
    assert found._engine.quantised


class TestRefusals:
    """What cannot be done is refused in one sentence."""

    def test_the_packed_engine_names_the_other(self, folders: dict[str, Path]) -> None:
        with pytest.raises(
            WeightsError, match=r'\(quant_method "bitsandbytes"\); .* E5_ENGINE=transformers'
        ):
            load(folders["nf4"])

    @pytest.mark.parametrize("options", [{"quantize": "int8"}, {"adapter": "law"}])
    def test_weights_that_are_quantised_are_not_quantised_or_merged_into(
        self, folders: dict[str, Path], options: dict[str, Any]
    ) -> None:
        (name,) = options
        with pytest.raises(
            SettingsError, match=rf"^E5_{name.upper()}: .* weights that are quantised already; un"
        ):
            load_by_engine(folders["nf4"], **options)

    def test_an_adapter_beside_them(self, folders: dict[str, Path], tmp_path: Path) -> None:
        folder = Path(shutil.copytree(folders["nf4"], tmp_path / "both"))
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(WeightsError, match="the folder of the weights holds an adapter too"):
            load(folder, engine="transformers")

    @pytest.mark.parametrize("method", ["gptq", "awq", "fp8", None])
    def test_weights_that_another_library_quantised(
        self, folders: dict[str, Path], method: str | None, tmp_path: Path
    ) -> None:
        folder = Path(shutil.copytree(folders["nf4"], tmp_path / "other"))
        text = (folder / CONFIG).read_text()
        (folder / CONFIG).write_text(text.replace('"bitsandbytes"', f'"{method}"'))
        with pytest.raises(WeightsError, match=rf'config.json: .*\(quant_method "{method}"\)'):
            load(folder, engine="transformers")

    def test_weights_that_are_damaged(self, folders: dict[str, Path], tmp_path: Path) -> None:
        folder = Path(shutil.copytree(folders["nf4"], tmp_path / "damaged"))
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(WeightsError, match=r"model\.safetensors: damaged, or not a saf"):
            load(folder, engine="transformers")

    @pytest.mark.parametrize("how", ["load_in_8bit", "load_in_4bit"])
    def test_whole_weights_that_config_json_calls_quantised(self, how: str, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(MINI, tmp_path / "whole"))
        (folder / "manifest.json").unlink()
        config = json.loads((folder / CONFIG).read_text())
        config["quantization_config"] = {"quant_method": QUANTISED_BY, how: True}
        (folder / CONFIG).write_text(json.dumps(config))
        with pytest.raises(WeightsError, match=r"config\.json: .*, and the weights are not quant"):
            load(folder, engine="transformers")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (lambda t: t.pop("norm.weight"), r"tensor norm\.weight is missing"),
            (lambda t: t.pop("layers.1.mlp.up_proj.weight.absmax"), "transformers cannot load it"),
            (lambda t: t.update(more=t["norm.weight"].clone()), "tensor more is unknown"),
            (lambda t: t.update({"norm.weight": torch.ones(7)}), "transformers cannot load it"),
        ],
    )
    def test_weights_that_are_incomplete(
        self,
        folders: dict[str, Path],
        edit_checkpoint: EditCheckpoint,
        change: Callable[[dict[str, torch.Tensor]], None],
        named: str,
    ) -> None:
        with pytest.raises(WeightsError, match=named):
            load(edit_checkpoint(folders["nf4"], change), engine="transformers")

    def test_the_package_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("e5.quantization.find_spec", lambda _: None)
        with pytest.raises(SettingsError, match=r'^E5_QUANTIZE: .*; install the extra "quantize"'):
            load(MINI, engine="transformers", quantize="nf4")

    def test_it_is_not_compiled(self, quantised: dict[str, Embedder]) -> None:
        with pytest.raises(SettingsError, match=r"^E5_COMPILE: received 1 with a model that is"):
            ReferenceEngine(quantised["nf4"]._engine.model, compiled=True)


def load_by_engine(folder: Path, **options: Any) -> None:
    """Load a folder by the engine alone: an embedder reads an adapter before."""
    config = Config.read(folder / CONFIG, quantised_by=QUANTISED_BY)
    settings = Settings(engine="transformers", **options)
    cpu, float32 = torch.device("cpu"), torch.float32
    load_reference(Checkpoint.find(folder), config, settings, device=cpu, dtype=float32)


@pytest.mark.slow
def test_nothing_is_fetched_while_it_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="it comes with the extra quantize")
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__): print('fetched')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import e5.quantization as q; "
    code += "q.import_bitsandbytes('E5_QUANTIZE'); import kernels; kernels.get_kernel()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "fetched\n"), done.stderr  # by this test alone
