# The HTTP service, and `gammabeta` for the database and its keys. Build from the root of the project:
#
#     docker build -f docker/service.Dockerfile -t gammabeta-service .
#
# Where pip takes wheels from is said by its own variables, as build arguments. Torch with CUDA takes some gigabytes that
# a service on the CPU has no use for: name an index of wheels for the CPU by PIP_EXTRA_INDEX_URL. The pin in
# constraints.txt stays the same.

FROM python:3.11-slim-bookworm AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY constraints.txt .
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install -c constraints.txt "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml .
# What the project needs, apart from it: a change of code does not install this again.
RUN python -c "import tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; extras = project['optional-dependencies']; \
print(*project['dependencies'], *extras['objects'], *extras['onnx'], sep='\n')" > requirements.txt \
    && pip --python /venv/bin/python install -c constraints.txt -r requirements.txt
COPY . .
# Last, what only a compiler and torch's own tests would use.
RUN pip wheel --no-deps --wheel-dir wheels . && pip --python /venv/bin/python install --no-deps wheels/*.whl \
    && rm -r /venv/lib/python3.11/site-packages/torch/include /venv/lib/python3.11/site-packages/torch/test

FROM python:3.11-slim-bookworm
# The number is the same in both images, since they share what they write. A volume that is mounted for the first time
# takes owner and mode of the folder that it covers.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/gammabeta --shell /usr/sbin/nologin gammabeta \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/gammabeta /run/secrets
COPY --from=build /venv /venv
# On an address that others reach it does not start before there is a key: `gammabeta keys create`.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 \
    GAMMABETA_HOME=/var/lib/gammabeta GAMMABETA_HOST=0.0.0.0 GAMMABETA_PORT=8000
WORKDIR /var/lib/gammabeta
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=180s --retries=3 CMD ["python", "-I", "-c", "\
import http.client, os, sys; \
asked = http.client.HTTPConnection('127.0.0.1', int(os.environ['GAMMABETA_PORT']), timeout=4); \
asked.request('GET', '/readyz'); \
sys.exit(asked.getresponse().status != 200)"]
ENTRYPOINT ["python", "-P", "-m", "service"]
