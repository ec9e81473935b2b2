# Two images of one file:
#
#     docker build --target server -t streamgauge-server .    the reference server alone: two packages
#     docker build -t streamgauge .                           everything: generator, reports, benchmarks, server
#
# Pinned: the base by digest (of the index, so that every platform is meant), every package by version and hash. No network but a package
# index is used, and nothing is compiled. docs/deploy.md says how it was checked.

ARG BASE=python:3.13.14-slim-bookworm@sha256:67a1e1f215ccda113cfc024e8639049257e88f273898f595b61476d128d387e8

# -- packages: made in stages of their own, so that no pip and no cache is left in an image -------------------------------------------

FROM ${BASE} AS server-packages
WORKDIR /build
COPY requirements.lock ./
# The two packages that server/ imports, with the hashes that the lock has for them.
RUN awk '/^[a-z]/ { wanted = /^(websockets|prometheus-client)==/ } wanted' requirements.lock >server.lock \
    && python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: --requirement server.lock \
    && /opt/venv/bin/pip uninstall --yes pip

FROM ${BASE} AS packages
WORKDIR /build
COPY requirements.lock ./
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: --requirement requirements.lock \
    && /opt/venv/bin/pip uninstall --yes pip \
    && find /opt/venv -type d -name tests -prune -exec rm -r {} +

# -- what both images are ---------------------------------------------------------------------------------------------------------------

FROM ${BASE} AS runtime
# Python unbuffered, so that a log shows what has happened; no bytecode, as the file system may be read-only.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app
# By number: Kubernetes cannot tell whether a name is root.
ARG USER_ID=10001
RUN mkdir /runs && chown ${USER_ID}:${USER_ID} /runs
ARG REVISION=unknown
LABEL org.opencontainers.image.title="streamgauge" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"
STOPSIGNAL SIGTERM

# -- the reference server ---------------------------------------------------------------------------------------------------------------

FROM runtime AS server
COPY --from=server-packages /opt/venv /opt/venv
COPY server ./server
RUN python3 -m compileall -q server
USER 10001:10001
EXPOSE 8001
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8001/healthz', timeout=2)"]
ENTRYPOINT ["python3", "-m", "server"]
CMD ["--host", "0.0.0.0"]

# -- everything -------------------------------------------------------------------------------------------------------------------------

FROM runtime AS streamgauge
COPY --from=packages /opt/venv /opt/venv
# Runs say which version made them, and the version is written there.
COPY pyproject.toml ./
COPY server ./server
COPY loadtest ./loadtest
COPY reports ./reports
COPY benchmarks ./benchmarks
RUN python3 -m compileall -q server loadtest reports benchmarks
USER 10001:10001
VOLUME /runs
# 5557: workers reach the master here. 8089: Locust's web page, when a master is started with it.
EXPOSE 5557 8089
# matplotlib keeps its list of fonts, where it may write.
ENV MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["python3", "-m"]
CMD ["benchmarks", "--help"]
