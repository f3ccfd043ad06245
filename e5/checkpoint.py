"""A checkpoint's folder: finds its files, verifies them and computes the fingerprint.

A folder holds `config.json`, `tokenizer.json` and the weights as safetensors, in one file or in
parts with an index, as the hub and `save_pretrained` store them. An optional `manifest.json` gives
each file's sha256, token ids that the tokenizer must produce, and the prompt template. Nothing is
downloaded here.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from e5.declarations import PROMPTS_FILE, Declarations
from e5.errors import WeightsError, quoted, shortened
from e5.prompts import E5_PROMPTS, TEMPLATE, Prompts, is_template
from e5.tokenizer import RULE, TokenIds

CONFIG, TOKENIZER, MANIFEST = "config.json", "tokenizer.json", "manifest.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SINGLE, WEIGHT_INDEX = "model.safetensors", "model.safetensors.index.json"

HOW_TO_GET_WEIGHTS = (
    "run e5 download-weights (in a clone ./scripts/download_weights; 14 GB), "
    "or set E5_WEIGHTS=weights/e5-mini for the small built-in one"
)
DELETE_FIRST = f"delete the file, then {HOW_TO_GET_WEIGHTS}"


def _unusable(file: str | Path, received: str) -> WeightsError:
    return WeightsError(file, received, HOW_TO_GET_WEIGHTS)


@dataclass(frozen=True)
class CheckpointManifest:
    """What a checkpoint must contain.

    Attributes:
        source: where the files came from, as text for people.
        files: sha256 of each file, by its name in the folder.
        goldens: token ids that the tokenizer must produce for some texts.
        template: a query's prompt, with `{task}` and `{query}`; None: what the folder's other files
            say, or E5's own.
    """

    source: str
    files: Mapping[str, str]
    goldens: Mapping[str, TokenIds] = field(default_factory=dict)
    template: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "CheckpointManifest | None":
        """The folder's manifest, or None; WeightsError if it cannot be used."""
        path = folder / MANIFEST
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            files = {name: str(sha256) for name, sha256 in raw["files"].items()}
            goldens = {text: tuple(ids) for text, ids in raw["goldens"].items()}
            template = raw.get("template")
            source = str(raw["source"])
            if not all(goldens.values()):
                raise ValueError("a golden without token ids")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise _unusable(path, f"not a manifest of this project ({error})") from error
        if "template" in raw and not (isinstance(template, str) and is_template(template)):
            remedy = f"use {{query}} once and {{task}} at most once, as in {quoted(TEMPLATE)}"
            raise WeightsError(path, f"the template is {quoted(template)}", remedy)
        return cls(source, files, goldens, template)

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into the folder."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        text = json.dumps(values, indent=1, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Checkpoint:
    """A complete folder. If it has a manifest, every file agrees with it.

    Attributes:
        folder: its path.
        digests: sha256 of each file that shapes a vector, by its name.
        manifest: None if the folder has none; its files are then not verified.
        declarations: what the folder's other files say of the model.

    Example:
        >>> Checkpoint.find(Path("weights/e5-mini")).weight_files
        ['model.safetensors']
    """

    folder: Path
    digests: Mapping[str, str]
    manifest: CheckpointManifest | None
    declarations: Declarations = field(default_factory=Declarations)

    @classmethod
    def find(cls, folder: Path) -> "Checkpoint":
        """Read every file once and compare it with the manifest.

        Raises:
            WeightsError: naming the file that is missing, damaged or not in the manifest, or that
                declares something of the model that this project does not do.
        """
        needed = checkpoint_files(folder)
        manifest = CheckpointManifest.read(folder)
        expected = manifest.files if manifest is not None else {}
        digests = hash_files(folder, sorted({*needed, *expected}))
        for name, digest in digests.items():
            if manifest is not None and name not in expected:
                raise _unusable(folder / name, f"not in {MANIFEST}")
            if digest != expected.get(name, digest):
                said = f"{MANIFEST} says {expected[name][:12]}..."
                received = f"damaged or altered (sha256 {digest[:12]}..., {said})"
                raise WeightsError(folder / name, received, DELETE_FIRST)
        declarations = Declarations.read(folder)
        own, template = declarations.prompts, None if manifest is None else manifest.template
        if own is not None and template not in (None, own.template):
            both = f"{quoted(template)}, and {PROMPTS_FILE} says {quoted(own.template)}"
            remedy = "delete the entry template to take the other, or give both the same"
            raise WeightsError(folder / MANIFEST, f"the template is {both}", remedy)
        digests = {name: digests[name] for name in needed}
        return cls(folder, digests, manifest, declarations)

    @property
    def name(self) -> str:
        """The folder's name, with links and relative paths resolved."""
        return self.folder.resolve().name

    @property
    def weight_files(self) -> list[str]:
        """The files that hold tensors, in order."""
        return [name for name in self.digests if name.endswith(".safetensors")]

    @property
    def prompts(self) -> Prompts:
        """The prompts that the folder's files name, with the manifest's template; or E5's."""
        prompts = self.declarations.prompts or E5_PROMPTS
        if self.manifest is None or self.manifest.template is None:
            return prompts
        return replace(prompts, template=self.manifest.template)

    def fingerprint(
        self,
        *,
        dtype: str,
        max_length: int,
        prompts: Prompts | None = None,
        adapter: Mapping[str, str] | None = None,
        engine: Sequence[str | None] = (),
    ) -> str:
        """Twelve hex digits that change with anything that shapes a vector.

        Args:
            dtype: the dtype of the matrix products as torch prints it, such as `torch.float16`.
            max_length: the maximum tokens of a text.
            prompts: those of an adapter that was merged; None: the checkpoint's.
            adapter: sha256 of the files of an adapter that was merged.
            engine: the name of an engine that is not our own, and how it quantises the weights.
        """
        prompts = prompts or self.prompts
        own = [prompts.before_document, prompts.before_query_by_name]
        ingredients: list[object] = [self.digests, RULE, max_length, prompts.template, dtype]
        ingredients += [part for part in (adapter, own) if part not in (None, ["", {}])]
        ingredients += [list(engine)] if engine else []
        return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:12]


def checkpoint_files(folder: Path) -> list[str]:
    """Names of the files that a checkpoint consists of: config, tokenizer, weights.

    Raises:
        WeightsError: for a folder that does not exist, or naming the file that it lacks.
    """
    if not os.path.isdir(folder):  # false, not an error, for a path that is too long
        raise _unusable(shortened(str(folder), 300), "there is no such weights folder")
    names = [*_weight_files(folder), CONFIG, TOKENIZER]
    for name in names:
        if not (folder / name).is_file():
            if (folder / ADAPTER_CONFIG).is_file():
                remedy = "set E5_ADAPTER to this folder, and E5_WEIGHTS to that of its base"
                raise WeightsError(folder / name, "the folder holds an adapter alone", remedy)
            pickled = " (pickled weights are never loaded)" if any(folder.glob("*.bin")) else ""
            raise _unusable(folder / name, f"the file is missing{pickled}")
    return names


def weight_bytes(folder: Path) -> int:
    """The size of a folder's weight files in bytes; 0 where there is no folder."""
    if not os.path.isdir(folder):
        return 0
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _weight_files(folder: Path) -> list[str]:
    """The index and its parts; the single file, if there is no index or a stale one."""
    alone = sorted({path.name for path in folder.glob("*.safetensors")} - {ADAPTER_WEIGHTS})
    if not (folder / WEIGHT_INDEX).is_file():
        return alone if len(alone) == 1 else [SINGLE]
    try:
        weight_map = json.loads((folder / WEIGHT_INDEX).read_text(encoding="utf-8"))["weight_map"]
        parts = sorted({str(part) for part in weight_map.values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        received = f"not a safetensors index ({error})"
        raise _unusable(folder / WEIGHT_INDEX, received) from error
    for part in parts:
        if Path(part).name != part:
            raise _unusable(
                folder / WEIGHT_INDEX, f"it names {part[:100]!r}, which is not a file beside it"
            )
    if alone == [SINGLE] and SINGLE not in parts:
        return [SINGLE]
    return [WEIGHT_INDEX, *parts]


def hash_files(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The sha256 of each file, read in parallel; WeightsError for one that cannot be read."""

    def sha256(name: str) -> str:
        try:
            with (folder / name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:  # ValueError: an invalid file name
            raise _unusable(folder / name, f"cannot be read ({error})") from error

    with ThreadPoolExecutor() as pool:
        hashes = tqdm(
            pool.map(sha256, names), "sha256", len(names), unit="file", delay=2, disable=None
        )
        return dict(zip(names, hashes, strict=True))
