# What launches the Flex Template: an image of deploy/Dockerfile, with Google's launcher.
#   docker build -f deploy/dataflow/template.Dockerfile --build-arg IMAGE=IMAGE -t IMAGE-template .
ARG IMAGE=lexbeam:0.1.0
# Google gives its launchers no versions, and mends only the latest.
# hadolint ignore=DL3007
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:latest AS launcher

# hadolint ignore=DL3006
FROM ${IMAGE}
COPY --from=launcher /opt/google/dataflow/python_template_launcher \
    /opt/google/dataflow/python_template_launcher
COPY deploy/dataflow/launch.py /template/launch.py
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/launch.py
ENTRYPOINT ["/opt/google/dataflow/python_template_launcher"]
