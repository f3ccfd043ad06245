"""Words are found in scripts that put no blanks between them, and all others as before."""

from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import pytest
from corpus_tools import MODEL, clustered, write_shard
from hypothesis import given
from hypothesis import strategies as st
from lancedb.query import MatchQuery

from e5.corpora.corpus import Corpus
from e5.corpora.documents import Document
from e5.corpora.index import Index
from e5.corpora.lance import NGRAM_INDEX
from e5.corpora.ngrams import UNSPACED, ngrams_of_document, ngrams_of_query
from e5.corpora.shard_folder import ShardFolder

ENGLISH = ["running the databases quickly", "a tower, and a Database", "ISO 8601", "café", "8601"]
OTHERS = [
    "東京タワーは東京都港区にある", "私は東京大学に行った", "カタカナのデータベース検索",
    "図書館で本を読む", "北京是中国的首都", "我喜欢吃苹果和香蕉", "ประเทศไทยมีอากาศร้อน",
    "กรุงเทพมหานครเป็นเมืองหลวง", "서울에서 살고 있습니다", "서울은 한국의 수도이다",
    "Tokyo tower 東京 is tall", "ພາສາລາວແລະປະເທດລາວ", "ភាសាខ្មែរប្រទេសកម្ពុជា", "မြန်မာဘာသာစကား",
    "ｶﾀｶﾅ half width", "𠮷野家で食べる", "私はPythonが好き", "iPhoneケースとTシャツ",
    "第２章、２０２４年", "น้ำดื่ม", "한국어를 배우는 학생들이", normalize("NFD", "대한민국 がぎ"),
    "葛\U000e0100城市", "マイクロ・ソフト", "OpenAIのgpt-4", "㍿の株式", "ㄅㄆㄇㄈ", "ꆈꌠꁱꂷ",
    "ＮＨＫ（１２３）",
]  # fmt: skip
WORDS = (
    *("東京", "東", "タワー", "データ", "データベース", "検索", "図書館", "図書", "本", "読む"),
    *("北京", "中国", "苹果", "首都", "ไทย", "อากาศ", "กรุงเทพ", "เมือง", "น้ำ", "ดื่ม", "서울"),
    *("한국", "수도", "학생", "대한", "ລາວ", "ປະເທດ", "ខ្មែរ", "កម្ពុជា", "မြန်မာ", "စကား", "カタカナ"),
    *("ｶﾀｶﾅ", "𠮷野家", "大学", "Python", "python", "iphone", "シャツ", "Tシャツ", "2024", "が"),
    *("葛城", "ソフト", "OpenAI", "gpt", "株式会社", "ㄆㄇ", "ꌠꁱ", "NHK", "123"),
)  # fmt: skip


def build(folder: Path, *parts: Sequence[str]) -> Index:
    """An index that has grown by one shard after another; ids are the numbers of the texts."""
    shards, first = ShardFolder(str(folder / "out")), 0
    shards.begin(shards.check(MODEL, 16, Corpus(str(folder / "in"))))
    for number, texts in enumerate(parts):
        documents = [Document(str(i), text) for i, text in enumerate(texts, first)]
        write_shard(shards, f"part-{number:06d}.parquet", documents, clustered(len(texts), 16))
        index = Index.build(shards, str(folder / "index"))
        first += len(texts)
    return index


def found(index: Index, keywords: str) -> list[int]:
    """The documents that have words of a text, the best first, by their words alone."""
    rows = index._table.search(clustered(1, 16)[0], 100, keywords=keywords)
    return [int(row["id"]) for row in rows]


@pytest.fixture(scope="module", params=["at once", "one after the other"])
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of `ENGLISH` and then `OTHERS`."""
    folder = tmp_path_factory.mktemp("mixed")
    if request.param == "at once":
        return build(folder, [*ENGLISH, *OTHERS])
    return build(folder, ENGLISH[:3], ENGLISH[3:], OTHERS[:5], OTHERS[5:])


@pytest.mark.slow
def test_every_word_is_found_wherever_it_stands(mixed: Index) -> None:
    texts = [
        normalize("NFKC", text.replace("\U000e0100", "")).lower() for text in [*ENGLISH, *OTHERS]
    ]
    for word in WORDS:
        sought = normalize("NFKC", word).lower()
        having = {i for i, text in enumerate(texts) if sought in text.lower()}
        assert having, word
        hits = found(mixed, word)
        assert set(hits[: len(having)]) == having, word


def test_the_document_that_has_the_whole_word_is_the_first(mixed: Index) -> None:
    for query, number in {
        "東京都": 0, "東京で一番高いタワーは何ですか": 0, "ประเทศไทย": 6, "한국의 수도": 9,
        "東京 tower": 10, "Pythonは好きですか": 16,
    }.items():  # fmt: skip
        (best, *_) = found(mixed, query)
        assert best == len(ENGLISH) + number, query


def test_words_that_no_document_has_are_not_found(mixed: Index) -> None:
    for word in ("北海道", "水", "ภูเก็ต", "부산", "京東", "都京", "snow", "吉野"):
        assert found(mixed, word) == [], word


def test_other_words_rank_as_without_n_grams(mixed: Index, tmp_path: Path) -> None:
    english = build(tmp_path, ENGLISH)
    assert NGRAM_INDEX not in english._table._indexes
    assert NGRAM_INDEX in mixed._table._indexes
    table = mixed._table._table
    for query in ("database", "run", "8601", "cafe", "quickly tower", "the 8601 tower"):
        assert found(english, query)
        search = table.search(MatchQuery(query, "text"), query_type="fts")  # type: ignore[call-arg]
        assert found(mixed, query) == [int(row["id"]) for row in search.limit(100).to_list()]


def test_hybrid_finds_a_word_that_the_vector_does_not(mixed: Index) -> None:
    query = clustered(1, 16)[0]
    for word, text in {"苹果": "我喜欢吃苹果和香蕉", "수도": "서울은 한국의 수도이다"}.items():
        hits = mixed.search(query, 3, keywords=word)
        assert text in [hit.text for hit in hits]
    assert set(hits[0].values) == set()


@given(text=st.text(st.sampled_from("東京都aπ ー・าไéกㄱ가、_-1"), max_size=20))
def test_a_query_looks_for_what_a_document_of_the_same_text_has(text: str) -> None:
    document = ngrams_of_document(text)
    assert (document is None) == (not any(c in "東京都ーาไกㄱ가" for c in text))
    if document is not None:
        runs = {n for n in ngrams_of_query(text).split() if UNSPACED.search(n)}
        assert runs <= set(document.split())


def test_a_long_word_without_such_letters_is_looked_at_once() -> None:
    assert ngrams_of_document("a" * 10**6) is None
    assert ngrams_of_document("a" * 10**6 + "本") == f"{'a' * 10**6} 本"
