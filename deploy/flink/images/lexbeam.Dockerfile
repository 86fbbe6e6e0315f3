# lexbeam with its encoder: the driver, and the worker pools beside the task managers.
# docker build -f deploy/flink/images/lexbeam.Dockerfile -t lexbeam:0.1.0 .
FROM python:3.11-slim
WORKDIR /opt/lexbeam
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-deps -r requirements.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY models models
COPY transforms transforms
COPY pipeline pipeline
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && \
    useradd --create-home --uid 1000 lexbeam
USER 1000
# What lies where a worker is started must not shadow a package.
WORKDIR /home/lexbeam
RUN lexbeam models pull multilingual-e5-small-q4
ENTRYPOINT ["lexbeam"]
