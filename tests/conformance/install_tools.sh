#!/usr/bin/env bash
# Builds the servers that the conformance suite runs on, into build/tools, unless they are there:
#   install_tools.sh prism boot                Beam's portable runner, its container's entry point
#   install_tools.sh minio fake-gcs-server     two object stores
# Without Go nothing is built, and the tests skip; with CI=true that is an error.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=$PWD/build/tools

beam=github.com/apache/beam/sdks/v2

install() {
    local name=$1 built=$2 module=$3
    [ -x "$tools/$name" ] && return
    echo "building $name"
    # A module of its own decides nothing here.
    (cd / && GOBIN="$tools" GOFLAGS=-mod=mod go install "$module")
    [ "$built" = "$name" ] || mv "$tools/$built" "$tools/$name"
}

if ! command -v go >/dev/null; then
    echo "no Go here: the conformance tests that need a server of ours will skip" >&2
    [ "${CI:-}" != true ]
    exit
fi
mkdir -p "$tools"
for name; do
    case $name in
    prism) install prism prism $beam/go/cmd/prism@v2.77.0 ;;
    boot) install boot container $beam/python/container@v2.77.0 ;;
    minio) install minio minio github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c ;;
    fake-gcs-server) install $name $name github.com/fsouza/fake-gcs-server@v1.56.1 ;;
    *) echo "no such server: $name" >&2 && exit 2 ;;
    esac
done
