#!/usr/bin/env bash
# Runs lexbeam on this machine.
#   ./run_local.sh                 install once, fetch the model once, run the sample corpus
#   ./run_local.sh --input … --output …     the same environment, `lexbeam run` with these options
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
make --silent --no-print-directory -C "$root" install >&2
lexbeam="$root/.venv/bin/lexbeam"

if [ "$#" -gt 0 ]; then
    exec "$lexbeam" run "$@"
fi

make --silent --no-print-directory -C "$root" model >&2
out="$root/out/sample"
"$lexbeam" run --quiet --input "$root/examples/corpus" --output "$out" --num_topics 6
"$lexbeam" inspect "$out"
echo
echo "The Parquet files are in $out/runs. Next: $lexbeam inspect $out zh-tea-1"
