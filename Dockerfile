# Pinned by exact version tag. A tag can be moved: a deployment resolves it once and records the digest it got.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/haven \
 && /opt/haven/bin/pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: --requirement requirements.lock
COPY . .
RUN /opt/haven/bin/pip install --no-cache-dir --disable-pip-version-check \
      --no-index --no-deps --no-build-isolation .

FROM python:3.11.14-slim-bookworm
# A number, not a name, so that an orchestrator can see that it is not root. A new named volume takes over the owner and
# mode of the directory it is mounted on.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/haven
COPY --from=build /opt/haven /opt/haven
ENV PATH=/opt/haven/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HAVEN_DATA_DIR=/var/lib/haven
USER 10001:10001
WORKDIR /var/lib/haven
CMD ["haven", "run"]
