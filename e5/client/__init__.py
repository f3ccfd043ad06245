"""The same vectors from a running service, over HTTP, without its model and its libraries.

`client.Client` and `async_client.AsyncClient` are for callers: texts in, vectors out. The gateway
needs more of each answer, so it asks one request at a time through `service.AsyncRemote`:

    service = AsyncRemote("http://127.0.0.1:5000", deadline=60, patience=0.5)
    embedded = await service.embed({"documents": ["snow"], "encoding_format": "base64"})
    embedded.vectors, embedded.model  # float32 [num_texts, dimensions], "e5-mini@9bb9c967f643"
    embedded.tokens, embedded.truncated  # of each text; [] where the service tells no usage
    await service.health()  # "READY", ...; "" where nothing answers
    await service.aclose()

An address is the URL of a Cog server, `replicate:owner/name`, `replicate:owner/name:version` or
`replicate-deployment:owner/name`. `embed` sends its inputs as one request, so the caller cuts:
`batch.cut(lengths)` says where. What fails is of the service's own class (`InputError`,
`QueueFullError`, ...) or a `ServiceError`, whose `cause` is "busy" (then `retry_after` may hold
seconds), "unreachable", "deadline" or "other".
"""
