"""One validated request -> one answer, computed in batches with the requests of other callers."""
