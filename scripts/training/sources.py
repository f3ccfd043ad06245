"""The text that e5-mini is trained on: it is fetched once and read into plain records.

The machine's own apt fetches Debian's package lists and two of its packages, without root. The
project wrote the rest itself (`written/*.jsonl`). None of the fetched text is shipped.

    descriptions    titles and descriptions of Debian packages (each package's free licence)
    definitions     WordNet 3.0: definitions and examples (WordNet licence)
    help pages      GNOME's user documentation (CC BY-SA 3.0)
    written         queries with passages, by domain or by sense of an ambiguous word (MIT, ours)
"""

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WRITTEN = Path(__file__).parent / "written"
PACKAGES = ("wordnet-base", "gnome-user-docs")


@dataclass(frozen=True)
class Pair:
    """A query and passages that answer it. Pairs of one group are hard negatives for each other."""

    query: str
    passages: tuple[str, ...]
    group: str


def fetch(folder: Path) -> None:
    """Fetch Debian's lists and packages into `folder`, unless it holds them already.

    Raises:
        subprocess.CalledProcessError: apt fails; it has printed the reason itself.
        SystemExit: there is no apt.
    """
    done = folder / "snapshot.json"
    if done.is_file():
        return
    if shutil.which("apt-get") is None:
        sys.exit("The texts are Debian's, and apt-get fetches them: run this on Debian or Ubuntu.")
    for name in ("lists/partial", "archives/partial", "packages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    root = folder.resolve()
    options = {
        "Dir::State::Lists": f"{root}/lists",
        "Dir::Cache": str(root),
        "Acquire::Languages": "en",
        "Acquire::GzipIndexes": "false",  # some images keep the lists compressed
        "APT::Sandbox::User": "root",  # otherwise root would hand the folder to the user _apt
    }
    apt = ["apt-get", "--quiet", *(f"-o{name}={value}" for name, value in options.items())]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", *PACKAGES], check=True, cwd=folder / "packages")
    archives = sorted((folder / "packages").glob("*.deb"))
    for archive in archives:
        subprocess.run(["dpkg-deb", "-x", archive, folder / "packages"], check=True)
    releases = dict(release(path.read_text()) for path in (folder / "lists").glob("*_InRelease"))
    facts = {"lists": releases, "packages": [archive.name for archive in archives]}
    done.write_text(json.dumps(facts, indent=1) + "\n")


def release(header: str) -> tuple[str, str]:
    r"""Read the name and the date of a package list from its header.

    Example:
        >>> release("Label: Debian\nCodename: bookworm\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n")
        ('Debian bookworm', 'Sat, 11 Jul 2026 10:16:37 UTC')
    """
    fields = dict(re.findall(r"^(Label|Codename|Date): (.*)$", header, re.MULTILINE))
    return f"{fields['Label']} {fields['Codename']}", fields["Date"]


def descriptions(folder: Path) -> list[Pair]:
    """Read titles and descriptions of Debian packages, one pair of those that are alike."""
    found: dict[str, Pair] = {}
    for path in sorted((folder / "lists").glob("*_i18n_Translation-en")):
        for record in path.read_text().split("\n\n"):
            if pair := _description(record.partition("\nDescription-en: ")[2]):
                found.setdefault(_comparison_key(pair.query), pair)
    alike = {_comparison_key(pair.passages[0])[:80]: pair for pair in found.values()}
    return sorted(alike.values(), key=lambda pair: pair.query)


def _description(text: str) -> Pair | None:
    title, _, body = text.partition("\n")
    body = re.sub(r"^ \.$", "", body, flags=re.MULTILINE)
    passage = _first_words(re.sub(r"\s+", " ", body).strip(), 60)
    if len(title.split()) < 3 or len(passage.split()) < 8:
        return None
    return Pair(title.strip(), (passage,), "debian")


def definitions(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the words, the definition and the examples of each WordNet synset.

    Example:
        ("dog, domestic dog", "a member of the genus Canis ...", ["the dog barked all night"])
    """
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"packages/usr/share/wordnet/data.{part}").read_text().splitlines():
            if not line.startswith("  "):  # those lines are the licence
                yield _synset(line)


def _synset(line: str) -> tuple[str, str, list[str]]:
    # offset file kind count word id word id ... | definition; "example"; "example"
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    words = [
        word.partition("(")[0].replace("_", " ")
        for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    ]
    definition, *_ = gloss.strip().split('; "')
    return ", ".join(words), definition.strip(), re.findall(r'"([^"]+)"', gloss)


def help_pages(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the paragraphs of each page of GNOME's help."""
    for path in sorted((folder / "packages/usr/share/help/C").rglob("*.page")):
        page = path.read_text()
        title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
        paragraphs = [
            _without_markup(match) for match in re.findall(r"<p>(.*?)</p>", page, re.DOTALL)
        ]
        if title and paragraphs:
            yield _without_markup(title[1]), [text for text in paragraphs if len(text.split()) > 4]


def written() -> list[Pair]:
    """Read the pairs that the project wrote itself."""
    return [
        Pair(item["query"], tuple(item["passages"]), item.get("word") or item["domain"])
        for path in sorted(WRITTEN.glob("*.jsonl"))
        for item in map(json.loads, path.read_text().splitlines())
    ]


def sentences(text: str) -> list[str]:
    """Split a text at the ends of its sentences, well enough for training.

    Example:
        >>> sentences("It rained. We stayed, e.g. at home.")
        ['It rained.', 'We stayed, e.g. at home.']
    """
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)


def _without_markup(markup: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", markup))).strip()


def _first_words(text: str, count: int) -> str:
    return " ".join(text.split()[:count])


def _comparison_key(text: str) -> str:
    return re.sub(r"[^a-z]+", " ", text.lower())
