"""A DAG that runs lexbeam once a day on that day's documents: one task for each command.

Where things lie is read from the environment of the Airflow workers:

- LEXBEAM: the command line, as /opt/lexbeam/.venv/bin/lexbeam.
- LEXBEAM_INPUT: a folder with a folder for each day, as 2026-11-23/.
- LEXBEAM_OUTPUT: the folder that gets runs/2026-11-23 and latest.json.
- LEXBEAM_OPTIONS: more options of `lexbeam run`, as '--num_topics 20'; may be left out.

The run's id is the logical date. A task that is tried again resumes the run, and one that is run
again after it was done does nothing.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

# Wrong usage, and too many rejected documents: trying again would not help.
FINAL_EXIT_CODES = (2, 3)


def lexbeam(*arguments: str) -> None:
    """Run a command, its output in the task's log; raises where it fails."""
    command = [os.environ["LEXBEAM"], *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout:
                print(line, end="")
        except BaseException:
            # Where Airflow ends the task the job is asked to end; it can be resumed.
            process.terminate()
            raise
    code = process.returncode
    if code in FINAL_EXIT_CODES:
        raise AirflowFailException(f"{shlex.join(command)} ended with {code}")
    if code:
        raise AirflowException(f"{shlex.join(command)} ended with {code}")


@dag(
    schedule="@daily",
    start_date=datetime(2026, 11, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["lexbeam"],
)
def lexbeam_daily() -> None:
    """Run, verify, and remove what is older than a week."""

    @task
    def run(ds: str) -> None:
        lexbeam(
            "run",
            *("--input", f"{os.environ['LEXBEAM_INPUT']}/{ds}"),
            *("--output", os.environ["LEXBEAM_OUTPUT"]),
            *("--run_id", ds),
            *shlex.split(os.environ.get("LEXBEAM_OPTIONS", "")),
        )

    @task
    def verify(ds: str) -> None:
        lexbeam("verify", f"{os.environ['LEXBEAM_OUTPUT']}/runs/{ds}")

    @task
    def prune() -> None:
        lexbeam("runs", "prune", os.environ["LEXBEAM_OUTPUT"], "--keep", "7")

    run() >> verify() >> prune()


lexbeam_daily()
