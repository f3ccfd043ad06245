"""Files, a folder of shards or an index -> a sample of their rows."""

from e5.audit.gathered import Gathered, GatheredRow, usable
from e5.audit.sample import TextRole
from e5.corpora import Corpus, own_sample, sample_rows


def sample_files(
    corpus: Corpus, vector_column: str, count: int, role: TextRole = "auto"
) -> Gathered:
    """At most `count` rows of a corpus with the vectors that a column holds, always the same ones.

    A folder of shards or an index, as this project makes them, says itself which columns it has and
    which prompt its texts got; then of `corpus` only the location is used.

    Args:
        corpus: where the files are, and which columns hold ids and texts.
        vector_column: the column of the vectors; see `read_vectors` for what it may hold.
        count: of rows.
        role: of all texts.

    Raises:
        InputError: for files that cannot be read, a column that is not there, or no usable row.
        OSError: for an index that cannot be read.
    """
    own = own_sample(corpus.location, count)
    found = sample_rows(corpus, vector_column, count) if own is None else own.rows
    remarks, task = list[str](), None
    if own is not None:
        task = own.manifest.task
        remarks = [f"{corpus.location} was made by {own.manifest.model}"]
        if role == "auto":
            role = "query" if task else "document"
    rows = [GatheredRow(row.id, row.text, role, row.vector, row.problem) for row in found]
    sample, left_out = usable(rows)
    return Gathered(sample, left_out, remarks, task or None)
