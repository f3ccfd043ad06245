"""English text that needs no download: everyday words, and many real paragraphs.

The paragraphs are from the documentation strings of Python's standard library and of the installed
packages, so they depend on the versions of both.
"""

import random
import re
import sysconfig
from pathlib import Path

from e5.prompts import TASKS


def english_words() -> list[str]:
    """About 200 everyday words: those of the registered instructions."""
    prose = " ".join(task.instruction for task in TASKS.values())
    return sorted({word.lower() for word in prose.split() if word.isalpha()})


def real_texts(count: int) -> list[str]:
    """Distinct paragraphs of six words or more, in a fixed order that mixes their sources.

    Raises:
        RuntimeError: fewer than `count` paragraphs are found.
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
            f"found {len(found)} texts in the installed packages, but {count} are needed; "
            "install more packages."
        )
    return random.Random(0).sample(list(found), count)


def _python_files(folder: str) -> list[Path]:
    return sorted(Path(folder).rglob("*.py"))
