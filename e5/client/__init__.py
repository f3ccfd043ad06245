"""The same vectors from a running service, over HTTP, without its model and its libraries."""
