FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /venv
COPY requirements.txt .
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY config config
RUN /venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home proxy && install --directory --owner proxy /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PROXY_HOST=0.0.0.0 PROXY_ACCESS__FOLDER=/data
USER proxy
# Keys and named endpoints, where no Redis holds them.
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["narrative-proxy", "health"]
ENTRYPOINT ["narrative-proxy"]
CMD ["serve"]
