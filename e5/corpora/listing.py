"""The files of rows at a location, each by one path, whatever links lead to it.

A local folder is walked here: Arrow would go around a loop of links until the paths are too long,
in more ways than can be counted, and would list nothing because of one name that is not UTF-8.
"""

import errno
import heapq
import logging
import os
import re

from pyarrow import fs

from e5.corpora.filesystem import open_filesystem
from e5.corpora.formats import FORMATS
from e5.errors import InputError, shortened

logger = logging.getLogger(__name__)

MAX_LISTED = 5  # in one line


def corpus_files(
    location: str, *, quiet: bool = False
) -> tuple[fs.FileSystem, dict[str, fs.FileInfo]]:
    """The files of rows at a location, by path below it, in order; and their filesystem.

    Files of other formats are left out, as are hidden ones and what cannot be listed; unless
    `quiet`, that is logged. A link has its own path; a file that several paths lead to is listed
    once.

    Raises:
        InputError: if the location cannot be listed, or has only files of other formats.
    """
    filesystem, path = open_filesystem(location)
    try:
        info = filesystem.get_file_info(path)
        is_folder = info.type == fs.FileType.Directory
        is_file = info.type == fs.FileType.File
        found, remarks = {info.base_name: info} if is_file else {}, list[str]()
        if is_folder:
            found, remarks = files_below(filesystem, path)
    except Exception as error:  # each kind of storage raises its own
        received = f"{location}, which cannot be listed ({error})"
        raise InputError("corpus", received, "give a file or folder in reach") from error
    if info.type == fs.FileType.NotFound:
        raise InputError("corpus", location, "give a file or folder that exists")
    hidden = [name for name in found if is_hidden(name)] if is_folder else []
    if hidden and not quiet:
        reason = "their names or those of their folders begin with . or _"
        logger.info("%d files are left out, because %s", len(hidden), reason)
    visible = sorted(found.keys() - set(hidden))
    known = [name for name in visible if name.lower().endswith(FORMATS)]
    others = [name for name in visible if not name.lower().endswith(FORMATS)]
    if others and not known:
        received = f"{location}, without a file of a known format"
        raise InputError("corpus", received, f"give files that end in {', '.join(FORMATS)}")
    remarks += _remark(others, "files are left out, because their formats are not known")
    for remark in () if quiet else remarks:
        logger.warning("%s", remark)
    return filesystem, {name: found[name] for name in known}


def is_hidden(path: str) -> bool:
    """Whether a file or a folder that it is in is hidden by its name, as for Arrow and Spark."""
    return re.search("(^|/)[._]", path) is not None


def files_below(filesystem: fs.FileSystem, folder: str) -> tuple[dict[str, fs.FileInfo], list[str]]:
    """The files below a folder, by their paths in it; and sentences that say what is left out.

    If several paths lead to one local file, the shortest of those that are not hidden counts. Names
    that are not UTF-8 are left out.
    """
    remarks = list[str]()
    if isinstance(filesystem, fs.LocalFileSystem):
        paths, remarks = _local_paths(folder)
        found = filesystem.get_file_info([os.path.join(folder, path) for path in paths])
    else:
        found = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
        paths = [info.path.removeprefix(f"{folder}/") for info in found]
    files = zip(paths, found, strict=True)
    return {path: info for path, info in files if info.type == fs.FileType.File}, remarks


def _local_paths(root: str) -> tuple[list[str], list[str]]:
    files, folders = list[tuple[tuple[bool, int, str], str]](), set[str]()  # by their real paths
    repeated, invalid = list[str](), list[str]()
    # Folders to list, with their real paths. The best paths come first, so when a second path to a
    # folder comes, such as that of a link to a folder above, its files have their paths already.
    waiting = [(_rank(""), os.path.realpath(root))]
    while waiting:
        (_, _, folder), real = heapq.heappop(waiting)
        if real in folders:
            repeated.append(folder)
            continue
        folders.add(real)
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if not _is_utf_8(entry.name):
                    invalid.append(path)
                    continue
                target = os.path.join(real, entry.name)
                if entry.is_symlink():
                    target = os.path.realpath(target)
                try:
                    if entry.is_dir():
                        heapq.heappush(waiting, (_rank(path), target))
                    elif entry.is_file():
                        files.append((_rank(path), target))
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
                    repeated.append(path)  # a link to itself
    best = {target: path for (_, _, path), target in sorted(files, reverse=True)}
    loops = "they lead around a loop of links, or where a shorter path leads"
    remarks = _remark(repeated, f"paths are left out, because {loops}")
    remarks += _remark(invalid, "names are left out, because they are not UTF-8; rename them")
    return list(best.values()), remarks


def _rank(path: str) -> tuple[bool, int, str]:
    """The smaller, the better a path is."""
    return is_hidden(path), len(path), path


def _is_utf_8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python's stand-ins for other bytes are lone surrogates
        return False
    return True


def _remark(paths: list[str], text: str) -> list[str]:
    """The sentence that counts and names paths, if any of them is not hidden."""
    visible = sorted(path for path in paths if not is_hidden(path))
    shown = [os.fsencode(path).decode(errors="backslashreplace") for path in visible[:MAX_LISTED]]
    ellipsis = ", ..." if len(visible) > MAX_LISTED else ""
    names = ", ".join(map(shortened, shown))
    return [f"{len(visible)} {text}: {names}{ellipsis}"] if visible else []
