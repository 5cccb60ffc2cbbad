# syntax=docker/dockerfile:1
# The feature store as one image: runs, `feast serve`, and every other command of the README.
#     docker build -t dcmms-feature-store .
#     docker run --rm --env-file .env -v features:/var/lib/dcmms-feature-store dcmms-feature-store doctor
FROM python:3.11-slim-bookworm AS packages
WORKDIR /opt/dcmms-feature-store
COPY requirements.lock ./
RUN python -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock \
    && rm -rf .venv/lib/python3.11/site-packages/pip*

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="dCMMS feature store" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin dcmms-features \
    && install --directory --mode 750 --owner 10001 --group 10001 /var/lib/dcmms-feature-store
WORKDIR /opt/dcmms-feature-store
COPY --from=packages /opt/dcmms-feature-store/.venv .venv
COPY feature_store.yaml entities.py data_sources.py materialize_features.py settings_file.py .feastignore ./
COPY features features
COPY pipeline pipeline
COPY serving serving
COPY gateway gateway
COPY deploy/feature_store.yaml deploy/feature_store.yaml
# The settings come from the environment: there is no .env in the image.
ENV PATH="/opt/dcmms-feature-store/.venv/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    FEATURE_STORE_ENV_FILE=/dev/null \
    FEATURE_DATA_DIR=/var/lib/dcmms-feature-store \
    FEAST_FS_YAML_FILE_PATH=/opt/dcmms-feature-store/deploy/feature_store.yaml \
    FEAST_USAGE=False
USER 10001:10001
VOLUME /var/lib/dcmms-feature-store
# Of the feature server; a run has ended before it is asked the first time.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:6566/health', timeout=4)"]
ENTRYPOINT ["python", "materialize_features.py"]
