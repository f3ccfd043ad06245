"""Many real English texts without a download: the documentation strings of this Python.

Of its standard library and of what is installed beside the project: which texts there are depends
on the versions of both. Knows nothing of models.
"""

import random
import re
import sysconfig
from pathlib import Path


def real_texts(count: int) -> list[str]:
    """Distinct paragraphs of six words or more, in a fixed order that mixes their sources.

    Raises:
        RuntimeError: where there are not so many.
    """
    found: dict[str, None] = {}
    paths = sysconfig.get_paths()
    library = [path for path in _python_files(paths["stdlib"]) if "site-packages" not in path.parts]
    for path in [*library, *_python_files(paths["purelib"])]:
        code = path.read_text(encoding="utf-8", errors="ignore")
        for string in re.findall(r'"""(.*?)"""', code, re.DOTALL):
            for paragraph in re.split(r"\n\s*\n", string):
                words = paragraph.split()
                text = " ".join(words)
                if len(words) >= 6 and re.fullmatch("[A-Z].*[.]", text):
                    found[text] = None
    if len(found) < count:
        raise RuntimeError(
            f"{len(found)} texts in the documentation of this Python; {count} are needed: install "
            "more packages beside the project."
        )
    return random.Random(0).sample(list(found), count)


def _python_files(folder: str) -> list[Path]:
    return sorted(Path(folder).rglob("*.py"))
