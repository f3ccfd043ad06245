"""Small wheels, made by the standard library alone: build backends of tests import this too."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_wheel(
    folder: str | Path,
    name: str,
    version: str,
    requirements: Sequence[str] | Mapping[str, Sequence[str]] = (),
    text: str = "",
) -> Path:
    """A wheel of one module that holds a text; requirements may stand by extra."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    if isinstance(requirements, Mapping):
        for extra, needed in requirements.items():
            lines += [f"Provides-Extra: {extra}"]
            lines += [f'Requires-Dist: {each}; extra == "{extra}"' for each in needed]
    else:
        lines += [f"Requires-Dist: {each}" for each in requirements]
    info, file = f"{name}-{version}.dist-info", Path(folder) / f"{name}-{version}-py3-none-any.whl"
    file.parent.mkdir(parents=True, exist_ok=True)
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}.py", text)
        wheel.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    return file
