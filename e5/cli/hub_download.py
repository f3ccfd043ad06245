"""A download of a model's files from the hub, and the comparison of a folder with its manifest.

A file reaches the folder only after its checksum agreed with the hub's, and the manifest is written
last, when the folder is complete.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoSibling

from e5.checkpoint import (
    HOW_TO_GET_WEIGHTS,
    MANIFEST,
    Checkpoint,
    CheckpointManifest,
    checkpoint_files,
    hash_files,
)
from e5.cli.hub_models import HubModel
from e5.errors import E5Error, WeightsError

WANTED, UNWANTED = ("*.safetensors", "*.json", "tokenizer.model"), "*.bin.index.json"
POOLING = "*_Pooling/config.json"  # of sentence-transformers: which token's vector is taken
STAGING = ".download"  # a subfolder for files that are not verified yet


def download(model: HubModel, folder: Path) -> None:
    """Download the files that the folder lacks, verify them, and write the manifest.

    Raises:
        E5Error: the hub cannot be reached, a file arrived damaged, or the disk is too small.
        WeightsError: the repository does not hold a whole checkpoint.
        OSError: the folder cannot be written.
    """
    revision, files = _list_files(model)
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # of a killed run; the hub's client cannot resume it
    digests = {}
    for name, file in files.items():
        if (folder / name).is_file():
            digest = _verified_sha256(folder, file)
            if digest is not None:
                digests[name] = digest
            else:
                (folder / name).unlink()
                print(f"{name}: not the hub's file; it was deleted, and is fetched again")
    missing = {name: file for name, file in files.items() if name not in digests}
    size, free = sum(file.size or 0 for file in missing.values()), shutil.disk_usage(folder).free
    needed, available = f"{size / 1e9:.1f} GB", f"{free / 1e9:.1f} GB"
    source = f"{model.repository} at {revision}"
    print(f"{source}: {len(digests)} of {len(files)} files are in {folder},")
    print(f"{needed} to fetch, {available} of disk free", flush=True)
    if size > free:
        raise E5Error(
            f"{folder}: {needed} are to be fetched and only {available} of disk are free; make "
            "room or choose another --folder."
        )
    try:
        for name, file in missing.items():
            with _hub_errors(name):
                hf_hub_download(model.repository, name, revision=revision, local_dir=staging)
            digest = _verified_sha256(staging, file)
            if digest is None:
                raise E5Error(
                    f"{name}: arrived damaged, its checksum is not the one the hub reports; "
                    "the file was deleted; run it again to fetch it anew."
                )
            digests[name] = digest
            (folder / name).parent.mkdir(exist_ok=True)
            (staging / name).replace(folder / name)
            print(f"{name}: fetched, its checksum is the hub's", flush=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    checkpoint_files(folder)
    CheckpointManifest(source, digests, template=model.template).write(folder)
    print(f"{folder}: complete, every file has the hub's checksum; {MANIFEST} written")


def verify(folder: Path) -> None:
    """Compare a folder with its manifest and print a line per file; uses no network.

    Raises:
        WeightsError: naming the file that is missing, damaged or not in the manifest.
    """
    manifest = Checkpoint.find(folder).manifest
    if manifest is None:
        received = "the file is missing, so nothing can be compared"
        raise WeightsError(str(folder / MANIFEST), received, HOW_TO_GET_WEIGHTS)
    for name, digest in sorted(manifest.files.items()):
        print(f"{digest}  {name}")
    print(f"{folder}: all {len(manifest.files)} files are as {MANIFEST} says ({manifest.source})")


def _list_files(model: HubModel) -> tuple[str, dict[str, RepoSibling]]:
    """The revision and its wanted files, the smallest first; refuses a hub with other weights."""
    at = f" at {model.revision}" if model.revision is not None else ""
    with _hub_errors(f"the list of files of {model.repository}{at}"):
        info = HfApi().model_info(model.repository, revision=model.revision, files_metadata=True)
    files = [file for file in info.siblings or [] if _is_wanted(file.rfilename)]
    reported = {file.rfilename: file.lfs.sha256 for file in files if file.lfs is not None}
    for name, known in model.checksums.items():
        if reported.get(name) != known:
            raise E5Error(
                f"{name}: {constants.ENDPOINT} reports the checksum {reported.get(name)}, and it "
                f"is {known}; nothing was fetched: use another hub."
            )
    files.sort(key=lambda file: file.size or 0)
    return str(model.revision or info.sha), {file.rfilename: file for file in files}


def _is_wanted(name: str) -> bool:
    """Whether a file of the repository is needed: at the top level or of the pooling; no pickle."""
    if "/" in name:
        return name.count("/") == 1 and fnmatchcase(name, POOLING)
    return any(fnmatchcase(name, p) for p in WANTED) and not fnmatchcase(name, UNWANTED)


def _verified_sha256(folder: Path, file: RepoSibling) -> str | None:
    """The sha256 of a file on disk; None if its bytes are not those that the hub reports.

    The hub reports a sha256 of large files (LFS), and of the others git's blob id: the sha1 of a
    header and the data.
    """
    sha256 = hash_files(folder, [file.rfilename])[file.rfilename]
    if file.lfs is not None:
        return sha256 if sha256 == file.lfs.sha256 else None
    data = (folder / file.rfilename).read_bytes()
    sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return sha256 if sha1 == file.blob_id else None


@contextmanager
def _hub_errors(subject: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into one sentence about `subject`.

    The errors of the client's transports have no common base, hence the broad clause.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, HfHubHTTPError):
            reason = f"{constants.ENDPOINT} answered {error.response.status_code}"
        elif isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the hub
        else:
            cause = error.__cause__ or error
            text = str(cause).partition("\n")[0].rstrip(".") or type(cause).__name__
            reason = f"the hub cannot be reached at {constants.ENDPOINT} ({text})"
        raise E5Error(
            f"{subject}: {reason}; finished files are kept; run it again to continue."
        ) from error
