#!/bin/sh
# A night's job: nightly.sh INPUT OUTPUT [OPTION…]
#
# The run's id is the date, so that a job that was cut off goes on when it is started again, and one
# that is started again after it was done does nothing. LEXBEAM names the command line, METRICS a
# file for the textfile collector of Prometheus' node exporter.
set -eu
lexbeam=${LEXBEAM:-lexbeam}
input=$1
output=$2
shift 2
"$lexbeam" run --input "$input" --output "$output" --run_id "$(date +%F)" \
    --log_format json ${METRICS:+--metrics_file "$METRICS"} "$@"
"$lexbeam" verify "$output"
"$lexbeam" runs prune "$output" --keep 7
