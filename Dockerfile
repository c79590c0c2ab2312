# The service in containers: `docker compose up` builds the target `api` and the target `worker`.
#
# BASE_IMAGE is Debian with Python 3.11 or later that has the module venv. To hold it to one image,
# name it with its digest: --build-arg BASE_IMAGE=python:3.13-slim-trixie@sha256:...
ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS packages
# pip lives in an environment of its own and fills another one, which therefore holds no pip.
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/gradopt
WORKDIR /src
COPY constraints/ci.txt constraints/ci.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pip/bin/python -m pip install -q -c constraints/ci.txt setuptools
# Without our packages first: what they need makes a layer that a change of our code leaves alone.
COPY pyproject.toml LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && \
    /opt/pip/bin/python -m pip wheel -q --no-deps --no-build-isolation -w /tmp/bare . && \
    /opt/pip/bin/python -m pip --python /opt/gradopt/bin/python install -q \
      -c constraints/ci.txt "$(echo /tmp/bare/*.whl)[jax,api,parquet]"
COPY README.md ./
COPY keras_gradopt keras_gradopt
COPY recommender recommender
COPY api api
RUN /opt/pip/bin/python -m pip wheel -q --no-deps --no-build-isolation -w /tmp/whole . && \
    /opt/pip/bin/python -m pip --python /opt/gradopt/bin/python install -q \
      --no-deps --force-reinstall /tmp/whole/*.whl

# Both targets share this: the web process imports neither Keras nor JAX, but the distribution
# needs Keras, and two environments would take more of the disk than one.
FROM ${BASE_IMAGE} AS runtime
RUN rm -rf /usr/local/lib/python3*/site-packages/pip* /usr/local/bin/pip* && \
    groupadd --gid 10001 gradopt && \
    useradd --uid 10001 --gid gradopt --no-create-home --home-dir /var/lib/gradopt \
      --shell /usr/sbin/nologin gradopt && \
    install -d -o gradopt -g gradopt -m 0700 /var/lib/gradopt
COPY --from=packages /opt/gradopt /opt/gradopt
ENV PATH=/opt/gradopt/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KERAS_BACKEND=jax \
    KGO_DATA_DIR=/var/lib/gradopt
WORKDIR /var/lib/gradopt
VOLUME /var/lib/gradopt
USER 10001:10001
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gradopt" \
      org.opencontainers.image.description="Measured advice on how to train a Keras model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS worker
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=6 \
  CMD ["python", "-m", "api.alive", "worker"]
CMD ["gradopt", "worker"]

FROM runtime AS api
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-m", "api.alive", "web"]
CMD ["gradopt", "serve", "--host", "0.0.0.0", "--port", "8000", "--workers", "0"]
