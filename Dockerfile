# A server on a slim image. A model is mounted at /model:
#   docker build -t imdb-serving .
#   docker run --rm -p 9294:9294 -v "$PWD/outputs/models/cnn:/model:ro" imdb-serving
# and over RPC:
#   docker run --rm -p 9292:9292 -v ...:/model:ro imdb-serving serve /model --engine onnxruntime --endpoint tcp://0.0.0.0:9292
FROM python:3.11-slim AS build
# Git's tags are not in the image; for a release: --build-arg VERSION=0.1.0
ARG VERSION=0.1.dev0
WORKDIR /src
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY imdb_serving imdb_serving
COPY notebooks notebooks
COPY params params
COPY examples examples
RUN SETUPTOOLS_SCM_PRETEND_VERSION="$VERSION" pip wheel --quiet --no-cache-dir --no-deps --wheel-dir /wheels . \
 && sed -n 's/\[[^]]*\]//; s/ *\\$//; /^[A-Za-z0-9].*==/p' requirements.lock > /wheels/versions.txt

FROM python:3.11-slim
# Extras of the server: import (models with a tokenizer.json), folded, paddle.
ARG EXTRAS=""
COPY --from=build /wheels /wheels
RUN wheel=$(ls /wheels/*.whl) \
 && pip install --quiet --no-cache-dir --constraint /wheels/versions.txt "$wheel${EXTRAS:+[$EXTRAS]}" \
 && rm -r /wheels \
 && useradd --create-home --uid 10001 server
USER 10001
EXPOSE 9292 9294
HEALTHCHECK --interval=10s --start-period=20s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9294/v2/health/ready', timeout=3)"]
ENTRYPOINT ["imdb-serving"]
CMD ["flask", "/model", "--engine", "onnxruntime", "--host", "0.0.0.0"]
