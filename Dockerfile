# By digest, so that every build has the same base. To take a newer one: docker buildx imagetools inspect python:3.13-slim
ARG PYTHON=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${PYTHON} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /venv && /venv/bin/pip install --require-hashes -r requirements.txt
RUN python -m venv /build && /build/bin/pip install --require-hashes -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY config config
# Without isolation the wheel is built by the pinned backend, not by the newest of the day.
RUN /build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . && /venv/bin/pip install --no-deps /wheels/*.whl

FROM ${PYTHON}
RUN useradd --system --uid 10001 --no-create-home proxy && install --directory --owner proxy /data
COPY --from=build /venv /venv
# Nothing but /data is written, so that the root file system can be read-only.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PROXY_HOST=0.0.0.0 PROXY_ACCESS__FOLDER=/data
USER proxy
# Keys and named endpoints, where no Redis holds them.
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["narrative-proxy", "health"]
ENTRYPOINT ["narrative-proxy"]
CMD ["serve"]
