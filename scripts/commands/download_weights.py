"""Download a 7B model's weights, or verify a folder of weights.

    ./scripts/download_weights                     14 GB into weights/e5-mistral-7b-instruct
    ./scripts/download_weights NAME                another model of the table in models.py
    ./scripts/download_weights OWNER/NAME          any other of the hub, with a warning
    ./scripts/download_weights --verify [FOLDER]   offline, against the folder's manifest.json

Takes one pinned revision of the hub's repository, and of it the safetensors, the JSON files and
the tokenizer: no pickles. A file reaches the folder only after its checksum agreed with the hub's,
and a file that is there and agrees is not fetched again: after an interruption, run it again.
"""

import argparse
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoSibling

from commands.models import E5, MODELS, HubModel
from e5.checkpoint import (
    HOW_TO_GET_WEIGHTS,
    MANIFEST,
    Checkpoint,
    CheckpointManifest,
    checkpoint_files,
    hash_files,
)
from e5.errors import E5Error, WeightsError, quoted

WANTED, UNWANTED = ("*.safetensors", "*.json", "tokenizer.model"), "*.bin.index.json"
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
STAGING = ".download"  # inside the folder: files not checked yet, and what the hub's client notes


class DownloadError(E5Error):
    """A download that cannot start, or broke off; what had arrived is kept."""


def download(model: HubModel, folder: Path) -> None:
    """Fetch what the folder lacks, check it, and write the manifest.

    Raises:
        DownloadError: the hub cannot be reached, a file arrived damaged, or the disk is too small.
        WeightsError: the repository does not hold a whole checkpoint.
        OSError: the folder cannot be written.
    """
    revision, files = list_files(model)
    check_shards(model, files)
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # a killed run's; the hub's client never resumes it
    digests = {}
    for file in files:
        if (folder / file.rfilename).is_file():
            digest = checked_sha256(folder, file)
            if digest is not None:
                digests[file.rfilename] = digest
            else:
                (folder / file.rfilename).unlink()
                print(f"{file.rfilename}: not the hub's file; deleted, to be fetched again")
    missing = [file for file in files if file.rfilename not in digests]
    needed, free = sum(file.size or 0 for file in missing), shutil.disk_usage(folder).free
    source = f"{model.repository} at {revision}"
    print(f"{source}: {len(digests)} of {len(files)} files are in {folder},")
    print(f"{in_gigabytes(needed)} to fetch, {in_gigabytes(free)} of disk free", flush=True)
    if needed > free:
        raise DownloadError(
            f"{folder}: {in_gigabytes(needed)} are to be fetched and only {in_gigabytes(free)} of "
            "disk are free; make room or choose another --folder."
        )
    try:
        for file in missing:
            digests[file.rfilename] = fetch(file, staging, model.repository, revision)
            (staging / file.rfilename).replace(folder / file.rfilename)
            print(f"{file.rfilename}: fetched, its checksum is the hub's", flush=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    checkpoint_files(folder)
    CheckpointManifest(source, digests, template=model.template).write(folder)
    print(f"{folder}: complete, every file has the hub's checksum; {MANIFEST} written")


def list_files(model: HubModel) -> tuple[str, list[RepoSibling]]:
    """The revision and its wanted files, the smallest first, with sizes and checksums.

    Raises:
        DownloadError: the hub cannot be reached or does not know the revision.
    """
    at = f" at {model.revision}" if model.revision is not None else ""
    with reaching_hub(f"the list of files of {model.repository}{at}"):
        info = HfApi().model_info(model.repository, revision=model.revision, files_metadata=True)
    wanted = [file for file in info.siblings or [] if is_wanted(file.rfilename)]
    return str(model.revision or info.sha), sorted(wanted, key=lambda file: file.size or 0)


def check_shards(model: HubModel, files: Sequence[RepoSibling]) -> None:
    """Refuse a hub whose weights are others than those that this project knows.

    Raises:
        DownloadError: naming the file and both checksums.
    """
    reported = {file.rfilename: file.lfs.sha256 for file in files if file.lfs is not None}
    for name, known in model.shards.items():
        if reported.get(name) != known:
            raise DownloadError(
                f"{name}: {constants.ENDPOINT} reports the checksum {reported.get(name)}, and it "
                f"is {known}; nothing was fetched: use another hub."
            )


def is_wanted(name: str) -> bool:
    """Whether a file of the repository is needed: top level only, nothing pickled.

    Example:
        >>> is_wanted("config.json"), is_wanted("pytorch_model.bin"), is_wanted("onnx/config.json")
        (True, False, False)
    """
    matches = any(fnmatchcase(name, pattern) for pattern in WANTED)
    return matches and "/" not in name and not fnmatchcase(name, UNWANTED)


def fetch(file: RepoSibling, staging: Path, repository: str, revision: str) -> str:
    """Download one file into `staging`; returns its sha256.

    Raises:
        DownloadError: the hub cannot be reached, or the file arrived damaged.
    """
    with reaching_hub(file.rfilename):
        hf_hub_download(repository, file.rfilename, revision=revision, local_dir=staging)
    digest = checked_sha256(staging, file)
    if digest is None:
        raise DownloadError(
            f"{file.rfilename}: arrived damaged, its checksum is not the one the hub reports; "
            "the file was deleted, run again to fetch it anew."
        )
    return digest


def checked_sha256(folder: Path, file: RepoSibling) -> str | None:
    """The sha256 of a file on disk; None where its bytes are not those the hub reports.

    The hub reports a sha256 for large files (LFS), for the others git's blob id: the sha1 of a
    header and the data.
    """
    sha256 = hash_files(folder, [file.rfilename])[file.rfilename]
    if file.lfs is not None:
        return sha256 if sha256 == file.lfs.sha256 else None
    data = (folder / file.rfilename).read_bytes()
    sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return sha256 if sha1 == file.blob_id else None


@contextmanager
def reaching_hub(what: str) -> Iterator[None]:
    """Turn whatever the hub's client raises while getting `what` into one sentence.

    Its transports raise errors of their own that share no base, hence the broad clause.
    """
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise DownloadError(
            f"{what}: {constants.ENDPOINT} answered {status}; finished files are kept, "
            "run again to go on."
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's error, not the hub's
        cause = error.__cause__ or error
        reason = str(cause).partition("\n")[0].rstrip(".") or type(cause).__name__
        raise DownloadError(
            f"{what}: the hub cannot be reached at {constants.ENDPOINT} ({reason}); "
            "finished files are kept, run again to go on."
        ) from error


def find_model(name: str) -> HubModel:
    """A model of the table, or any `owner/name` of the hub, with a warning.

    Raises:
        DownloadError: for a name that is neither.
    """
    known = {model.repository.lower(): model for model in MODELS.values()}
    known |= {short.lower(): model for short, model in MODELS.items()}
    if name.lower() in known:
        return known[name.lower()]
    if not HUB_NAME.fullmatch(name):
        raise DownloadError(
            f"{quoted(name)}: no model of this name; use one of {', '.join(MODELS)}, or the "
            "OWNER/NAME of another on the hub."
        )
    print(
        f"warning: {name} is none of {', '.join(MODELS)}: its newest revision is taken, with E5's "
        "prompt and </s> at the end of each text. Compare with its model card.",
        file=sys.stderr,
    )
    return HubModel(name, revision=None)


def verify(folder: Path) -> None:
    """Compare a folder with its manifest and print a line per file; uses no network.

    Raises:
        WeightsError: naming the file that is missing, damaged or not in the manifest.
    """
    manifest = Checkpoint.find(folder).manifest
    if manifest is None:
        raise WeightsError(
            f"{folder / MANIFEST}: the file is missing, so nothing can be compared; "
            f"{HOW_TO_GET_WEIGHTS}."
        )
    for name, digest in sorted(manifest.files.items()):
        print(f"{digest}  {name}")
    print(f"{folder}: all {len(manifest.files)} files are as {MANIFEST} says ({manifest.source})")


def in_gigabytes(size: int) -> str:
    """A size in words.

    Example:
        >>> in_gigabytes(14_220_000_000)
        '14.2 GB'
    """
    return f"{size / 1e9:.1f} GB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="download_weights",
        description="Download a 7B model's weights, or verify a folder of weights.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default=E5,
        help=f"{', '.join(MODELS)}, or OWNER/NAME of the hub (default: %(default)s)",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the weights lie (default: weights/ and the name)"
    )
    parser.add_argument(
        "--verify",
        nargs="?",
        type=Path,
        const=WEIGHTS / E5,
        metavar="FOLDER",
        help="download nothing; compare a folder with its manifest.json",
    )
    options = parser.parse_args(arguments)
    try:
        if options.verify is not None:
            verify(options.verify)
        else:
            model = find_model(options.name)
            download(model, options.folder or WEIGHTS / model.repository.partition("/")[2])
    except (E5Error, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; finished files are kept, run again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
