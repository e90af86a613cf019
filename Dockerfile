# One image for every part of AppHub; docker-compose.yml says which part a container is.
# Another base with Python on Debian, such as a mirror's, is another argument.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.8
WORKDIR /opt/apphub
# What changes seldom comes first: an edit of the code does not install the libraries anew.
COPY pyproject.toml uv.lock README.md ./
RUN uv sync --frozen --no-dev --no-install-project
COPY . .
RUN uv sync --frozen --no-dev

FROM ${BASE}
# hadolint ignore=DL3008 Debian's newest git is wanted: its updates are security updates
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/apphub --shell /usr/sbin/nologin apphub \
    && install --directory --owner apphub --group apphub /var/lib/apphub
COPY --from=build /opt/apphub /opt/apphub
WORKDIR /opt/apphub
ENV PATH=/opt/apphub/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    APPHUB_HOME=/var/lib/apphub \
    DAGSTER_HOME=/opt/apphub/dagster_home/compose
USER apphub
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:4000/health', timeout=4)"]
CMD ["python", "-m", "apphub_api.server"]
