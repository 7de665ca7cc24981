# Sightline's container images:
#
#   api, indexer             what serves and what indexes, on the processor: without PyTorch
#   api-cuda, indexer-cuda   the same with PyTorch, for NVIDIA's GPUs
#   operator                 what looks after ImageIndexes in Kubernetes
#
# `make images` builds the three for the processor. By hand, where PyTorch is for the first line:
#
#   sightline models export --out build/exports/sightline-small
#   docker build --target api-cuda --tag sightline-api:cuda .
#
# BASE is any Linux with Python 3.11 and certificates of authorities, BUILDER the same Python with pip. For a release pin
# both by digest, which only a registry can tell (`docker buildx imagetools inspect python:3.11-slim-bookworm`):
#
#   --build-arg BASE=python:3.11-slim-bookworm@sha256:…
#
# Where packages come from is a secret of the build, not a part of it: pip.conf and ca.pem, both optional.
ARG BASE=python:3.11-slim-bookworm
ARG BUILDER=${BASE}

# ---------------------------------------------------------------- what is installed, by lock file

FROM ${BUILDER} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ONLY_BINARY=:all: PIP_REQUIRE_VIRTUALENV=1
WORKDIR /src
COPY requirements-images.lock ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    python3 -m venv /opt/build && python3 -m venv --without-pip /opt/sightline && \
    /opt/build/bin/pip install --quiet --require-hashes --no-deps --requirement requirements-images.lock
# Compiled here, because nothing is written where it runs; without times, which copying may change.
ENV INSTALL="/opt/build/bin/pip --python /opt/sightline/bin/python install --quiet --no-deps" \
    COMPILE="/opt/sightline/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash"

FROM build AS serving
COPY requirements-serving.lock ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    $INSTALL --require-hashes --requirement requirements-serving.lock && $COMPILE /opt/sightline

# PyTorch has files in the language of a newer Python, named after it, which this one can't compile and never loads.
FROM build AS everything
COPY requirements.lock ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    $INSTALL --require-hashes --requirement requirements.lock && $COMPILE -x /py3[0-9]+_ /opt/sightline

FROM build AS operating
COPY requirements-operator.lock ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    $INSTALL --require-hashes --requirement requirements-operator.lock && $COMPILE /opt/sightline

# ---------------------------------------------------------------- Sightline itself, as /added beside what is installed

FROM build AS sources
COPY . ./
RUN [ -f build/exports/sightline-small/model.json ] || { \
      echo "No model: run 'sightline models export --out build/exports/sightline-small', which takes PyTorch." >&2; exit 1; }
COPY tools/images/add /usr/local/bin/

# Weights are PyTorch's; without it the exported model serves.
FROM sources AS lean
RUN rm -r engine/weights && /opt/build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation -w /wheels .

FROM serving AS serving-added
COPY --from=sources /usr/local/bin/add /usr/local/bin/
COPY --from=lean /wheels /wheels
COPY --from=lean /src/build/exports /added/opt/sightline/share/sightline/models
RUN add

FROM operating AS operating-added
COPY --from=sources /usr/local/bin/add /usr/local/bin/
COPY --from=lean /wheels /wheels
RUN add

FROM sources AS full
RUN /opt/build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation -w /wheels .

FROM everything AS everything-added
COPY --from=sources /usr/local/bin/add /usr/local/bin/
COPY --from=full /wheels /wheels
COPY --from=full /src/build/exports /added/opt/sightline/share/sightline/models
RUN add

# ---------------------------------------------------------------- the images

FROM ${BASE} AS runtime
# A user of no node, and folders for volumes. pip, if the base has it, is of no use here and has flaws of its own.
RUN echo "sightline:x:10001:10001::/cache:/usr/sbin/nologin" >>/etc/passwd && echo "sightline:x:10001:" >>/etc/group && \
    install -d -o 10001 -g 10001 /cache /data && \
    if python3 -m pip --version >/dev/null 2>&1; then \
      python3 -m pip uninstall --quiet --yes --root-user-action=ignore setuptools wheel pip; fi
# gRPC is told not to prepare for forks: whoever forks here runs another program at once, and it complains in every log.
ENV PATH=/opt/sightline/bin:$PATH HOME=/cache GRPC_ENABLE_FORK_SUPPORT=0 \
    CLIP_EXPORTS=/cache/exports HF_HOME=/cache/huggingface INDEX_PATH=/data API_HOST=0.0.0.0 OPERATOR_HOST=0.0.0.0
STOPSIGNAL SIGTERM
USER 10001:10001
WORKDIR /opt/sightline
ENTRYPOINT ["sightline"]

FROM runtime AS cpu
COPY --from=serving /opt/sightline /opt/sightline
COPY --from=serving-added /added /

FROM cpu AS api
EXPOSE 8000
CMD ["serve"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sightline-api" \
      org.opencontainers.image.description="Semantic image search over GraphQL" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM cpu AS indexer
CMD ["index", "--help"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sightline-indexer" \
      org.opencontainers.image.description="Indexes pictures for Sightline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=everything /opt/sightline /opt/sightline
COPY --from=everything-added /added /

FROM cuda AS api-cuda
EXPOSE 8000
CMD ["serve"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sightline-api-cuda" \
      org.opencontainers.image.description="Semantic image search over GraphQL, on GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM cuda AS indexer-cuda
CMD ["index", "--help"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sightline-indexer-cuda" \
      org.opencontainers.image.description="Indexes pictures for Sightline, on GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS operator
COPY --from=operating /opt/sightline /opt/sightline
COPY --from=operating-added /added /
EXPOSE 8080
CMD ["operator", "run"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sightline-operator" \
      org.opencontainers.image.description="Looks after ImageIndexes in Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
