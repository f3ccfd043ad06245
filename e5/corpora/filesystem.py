"""Storage: a path or a URI -> a filesystem; files that are written whole or not at all; one writer.

Uses pyarrow's filesystems (local, `s3://`, `gs://`, `abfs://`, `hdfs://`), and fsspec's for all
others.
"""

import csv
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

import fsspec
import pyarrow as pa
from pyarrow import fs

from e5.corpora.streams import FormatError
from e5.errors import InputError

READ_ERRORS = (OSError, csv.Error, pa.ArrowException)  # of a damaged or unreachable file
OBJECT_STORES = ("s3", "gcs", "abfs")  # an object appears only when all of it has arrived
TEMPORARY_NAME = r"\..+\.[0-9a-f]{32}"  # names of temporary files


def open_filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path or URI, and the path in it; an InputError if it is out of reach."""
    try:
        location.encode()
        is_uri = "://" in location
        filesystem, path = _open_uri(location) if is_uri else (fs.LocalFileSystem(), location)
    except Exception as error:  # each kind of storage raises its own
        reason = " ".join(str(error).split())
        received = f"a location that cannot be reached ({reason})"
        shown = location.encode(errors="backslashreplace").decode()
        raise InputError(shown, received, "give a path or another URI") from error
    if isinstance(filesystem, fs.LocalFileSystem):
        return filesystem, os.path.abspath(path)  # a link keeps its own name
    return filesystem, path.rstrip("/")


def join_location(location: str, name: str) -> str:
    """The location of something in a folder: `s3://b/out/a?c=d` for `s3://b/out?c=d` and `a`."""
    if "://" not in location:
        return f"{location}/{name}"
    folder, question_mark, options = location.partition("?")
    return f"{folder.rstrip('/')}/{name}{question_mark}{options}"


def _open_uri(location: str) -> tuple[fs.FileSystem, str]:
    uri = location.replace(" ", "%20")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    if uri.startswith("s3://") and endpoint and "endpoint_override=" not in uri:
        # Arrow does not read these variables, which other programs do.
        scheme, _, host = endpoint.rpartition("://")
        uri += f"{'&' if '?' in uri else '?'}scheme={scheme or 'https'}&endpoint_override={host}"
    try:
        return fs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        filesystem, path = fsspec.core.url_to_fs(location)
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


@contextmanager
def errors_naming(file: str) -> Iterator[None]:
    """In this context, an error of a damaged or unreachable file is an InputError that names it."""
    try:
        yield
    except READ_ERRORS as error:
        received = f"a file that cannot be read ({error})"
        remedy = error.remedy if isinstance(error, FormatError) else "repair it and run again"
        raise InputError(file, received, remedy) from error


def read_file(filesystem: fs.FileSystem, path: str) -> bytes | None:
    """The content of a file; None if it does not exist."""
    if filesystem.get_file_info(path).type != fs.FileType.File:
        return None
    with filesystem.open_input_stream(path) as file:
        return bytes(file.read())


def write_whole(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    """Write a temporary file, flush it, rename it: a reader sees all of it or none."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{uuid4().hex}"
    try:
        filesystem.create_dir(folder, recursive=True)
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_local(temporary, path, content)
        else:
            in_place = filesystem.type_name in OBJECT_STORES
            with filesystem.open_output_stream(path if in_place else temporary) as stream:
                stream.write(content)
            if not in_place:
                filesystem.move(temporary, path)
    except (OSError, pa.ArrowException) as error:
        with suppress(OSError):
            filesystem.delete_file(temporary)  # a full disk needs the space
        raise OSError(f"{path}: cannot be written ({error}); run again when it can.") from error


@contextmanager
def only_writer(location: str) -> Iterator[None]:
    """In this context, no other process on any machine that shares a local folder writes to it.

    Object stores have no locks: there, nothing keeps a second process from writing.

    Raises:
        InputError: if another process writes to the folder.
        OSError: if the folder cannot be written.
    """
    filesystem, folder = open_filesystem(location)
    if not isinstance(filesystem, fs.LocalFileSystem):
        yield
        return
    try:
        os.makedirs(folder, exist_ok=True)
        opened = os.open(f"{folder}/_lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error}); name another folder.") from error
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except BlockingIOError as error:
            received = "a folder that another run is writing to"
            raise InputError(location, received, "wait until it has ended") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        yield
    finally:
        os.close(opened)


def _write_local(temporary: str, path: str, content: bytes) -> None:
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    opened = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(opened)  # else a power cut may undo renames out of order
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network shares cannot
            raise
    finally:
        os.close(opened)
