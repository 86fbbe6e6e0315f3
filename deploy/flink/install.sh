#!/usr/bin/env bash
# Installs what a Flink cluster of this machine needs, into build/flink, unless it is there:
#   job-server/flink-job-server.jar   Beam's job server, built by Maven
#   venv/                             Flink 1.19, from its Python package
# Without Java or Maven nothing is installed, and the tests skip; with CI=true that is an error.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=$(cd "$here/../.." && pwd)/build/flink
python=${PYTHON:-python3}
flink=1.19.3

for program in java mvn; do
    if ! command -v $program >/dev/null; then
        echo "no $program here: the tests on Flink will skip" >&2
        [ "${CI:-}" != true ]
        exit
    fi
done

mkdir -p "$target"
if [ ! "$target/job-server/flink-job-server.jar" -nt "$here/job-server/pom.xml" ]; then
    echo "building Beam's job server for Flink"
    mvn --quiet --batch-mode --file "$here/job-server/pom.xml" clean package
fi
if [ ! -f "$target/venv/$flink" ]; then
    echo "installing Flink $flink"
    "$python" -m venv --clear "$target/venv"
    pip=("$target/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
    # A source package, which builds with no newer setuptools.
    "${pip[@]}" setuptools==69.5.1 wheel==0.45.1
    "${pip[@]}" --no-build-isolation --no-deps "apache-flink-libraries==$flink"
    touch "$target/venv/$flink"
fi
