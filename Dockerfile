# Images of everything that `cog build` does not make. docs/deploy.md says how each is run.
#
#   docker build --target gateway -t e5-gateway .   in front of a running service; no torch
#   docker build --target demo -t e5-demo .         the gateway with the built-in checkpoint, on a CPU
#   docker build --target server -t e5-server .     the gateway with the model, on a GPU
#
# `serve` instead of `gateway` as the command of the last two is Cog's server. Build arguments:
# PIP_INDEX_URL and PIP_EXTRA_INDEX_URL name a mirror of PyPI; TORCH_VERSION and TORCH_INDEX the
# build of torch in `server`, by default that of the Cog image.

FROM python:3.11-slim AS base
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
# What is installed is known without the code, so that a change of the code reuses those layers.
COPY pyproject.toml requirements.txt ./
RUN python -c "import tomllib; \
    project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    extras = project['optional-dependencies']; \
    needed = project['dependencies'] + extras['gateway']; \
    open('gateway.txt', 'w').write('\n'.join(needed)); \
    open('serve.txt', 'w').write('\n'.join(needed + extras['serve']))"
ENV HOST=0.0.0.0 PORT=8080 HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=12s --start-period=6m --retries=2 CMD ["python", "/opt/e5/probe"]
ENTRYPOINT ["e5"]

# The wheel of this project, and files that any user may read, whatever the clone's modes are.
FROM base AS files
COPY scripts/probe /files/probe
COPY README.md LICENSE predict.py ./
COPY e5 e5
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /files . && chmod -R a+rX /files

FROM base AS demo-weights
COPY weights/e5-mini /weights/e5-mini
RUN chmod -R a+rX /weights

FROM base AS gateway
RUN pip install --no-cache-dir --constraint requirements.txt -r gateway.txt
COPY --from=files /files /opt/e5
RUN pip install --no-cache-dir --no-deps /opt/e5/*.whl
WORKDIR /
USER 65534:65534
CMD ["gateway", "--backend", "http://cog:5000"]

FROM base AS demo
# The torch that scripts/demo installs, in its build for CPUs. Its index is asked for nothing else.
RUN sed -i 's/^torch==.*/torch==2.13.0/' requirements.txt && \
    pip install --no-cache-dir --no-deps torch==2.13.0 \
        --extra-index-url https://download.pytorch.org/whl/cpu && \
    pip install --no-cache-dir --constraint requirements.txt -r serve.txt
COPY --from=demo-weights /weights /weights
COPY --from=files /files /opt/e5
RUN pip install --no-cache-dir --no-deps /opt/e5/*.whl
ENV E5_WEIGHTS=/weights/e5-mini E5_DEVICE=cpu
WORKDIR /
USER 65534:65534
CMD ["gateway"]

# All folders below weights/, unless .dockerignore leaves them out and they are mounted instead.
FROM base AS weights
COPY weights /weights
RUN chmod -R a+rX /weights

# Without triton, 0.6 GB that only E5_COMPILE uses, for which there is no compiler here either.
FROM base AS server
ARG TORCH_VERSION=2.11.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu126
RUN sed -i "s/^torch==.*/torch==${TORCH_VERSION}/" requirements.txt && \
    pip install --no-cache-dir --no-deps "torch==${TORCH_VERSION}" \
        --extra-index-url "${TORCH_INDEX}" && \
    pip install --no-cache-dir --constraint requirements.txt -r serve.txt && \
    pip uninstall --yes triton
COPY --from=weights /weights /weights
COPY --from=files /files /opt/e5
RUN pip install --no-cache-dir --no-deps /opt/e5/*.whl
ENV E5_WEIGHTS=/weights/e5-mistral-7b-instruct E5_DEVICE=cuda
WORKDIR /
USER 65534:65534
CMD ["gateway"]
