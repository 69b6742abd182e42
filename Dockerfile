# A server of one trained model. Build it in a checkout, and give it a run's folder and tokens:
#
#   docker build -t metafleet-serve .
#   docker run -p 8000:8000 --shm-size=1g -v "$PWD/runs/first:/model:ro" -e METAFLEET_TOKENS="alice:TOKEN" metafleet-serve
#
# docs/serving-http.md says more.
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 serve
WORKDIR /home/serve/metafleet

COPY pyproject.toml constraints.txt ./
COPY pipeline ./pipeline
COPY jobs ./jobs
# A CPU build of torch is the index's choice: --build-arg PIP_INDEX_URL=... or PIP_EXTRA_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir -c constraints.txt ".[serve,text]"

USER serve
ENV MODEL=/model PORT=8000 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=6s --start-period=120s --retries=3 \
    CMD python -c "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=5)"
CMD ["sh", "-c", "exec python -m jobs.serve \"$MODEL\" --backend ray --host 0.0.0.0 --port \"$PORT\""]
