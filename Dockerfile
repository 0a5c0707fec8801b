# One image for all components: python -m services.data | services.backtest | services.results | services.backtest.worker
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-trixie AS build
WORKDIR /opt/klinecast/app
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/klinecast/venv
COPY pyproject.toml constraints.txt ./
# What it depends on is a layer of its own: a change of the sources leaves it alone.
RUN pip install --no-cache-dir -c constraints.txt uv \
    && uv venv "$VIRTUAL_ENV" \
    && uv pip install -c constraints.txt -r pyproject.toml --extra server --extra celery
COPY README.md LICENSE ./
COPY klinecast klinecast
RUN uv pip install --no-deps . && rm -r klinecast
COPY services services
# The kernels are compiled for any machine of the architecture: a node with another CPU would compile them again at
# each start of a worker, and compute other last bits.
ARG NUMBA_CPU_NAME=generic
ENV NUMBA_CPU_NAME=${NUMBA_CPU_NAME} \
    NUMBA_CACHE_DIR=/opt/klinecast/kernels
RUN "$VIRTUAL_ENV/bin/python" -m compileall -q services \
    && "$VIRTUAL_ENV/bin/python" -c "from services.backtest import engine, strategies; strategies.StrategyRegistry(); engine.warm()"

FROM python:${PYTHON}-slim-trixie
ARG NUMBA_CPU_NAME=generic
ENV PATH=/opt/klinecast/venv/bin:$PATH \
    PYTHONPATH=/opt/klinecast/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NUMBA_CPU_NAME=${NUMBA_CPU_NAME} \
    NUMBA_CACHE_DIR=/tmp/numba
COPY --from=build /opt/klinecast /opt/klinecast
COPY image/entrypoint /opt/klinecast/entrypoint
WORKDIR /opt/klinecast/app
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
ENTRYPOINT ["/opt/klinecast/entrypoint"]
CMD ["python", "-m", "services.backtest"]
