# Flink and Beam's job server for it: the job manager, the task managers and the job server.
# docker build -f deploy/flink/images/flink.Dockerfile -t lexbeam-flink:1.19.3 .
FROM maven:3.9-eclipse-temurin-17 AS job-server
COPY deploy/flink/job-server/pom.xml /deploy/flink/job-server/pom.xml
RUN mvn --quiet --batch-mode --file /deploy/flink/job-server/pom.xml package

FROM flink:1.19.3-java17
COPY --from=job-server /build/flink/job-server/flink-job-server.jar /opt/beam/flink-job-server.jar
