"""A client of the REST API of Flink's job manager."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

_SECONDS_TO_ANSWER = 10.0
# A job in one of these does nothing any more.
ENDED = frozenset({"FINISHED", "FAILED", "CANCELED"})


class FlinkError(RuntimeError):
    """The API does not answer, or answers with an error; the message names the URL."""


class FlinkRest:
    """The API at an address.

    Args:
        address: `HOST:PORT`, or a URL.
    """

    def __init__(self, address: str) -> None:
        address = address.strip().rstrip("/")
        self.url = address if "://" in address else f"http://{address}"

    def overview(self) -> dict[str, Any]:
        """Task managers, slots, version."""
        return dict(self._call("/overview"))

    def task_managers(self) -> list[dict[str, Any]]:
        """Slots and memory of each."""
        return list(self._call("/taskmanagers")["taskmanagers"])

    def settings(self) -> dict[str, str]:
        """The cluster's configuration, as the job manager has it."""
        return {entry["key"]: entry["value"] for entry in self._call("/jobmanager/config")}

    def jobs(self) -> list[dict[str, Any]]:
        """Id (`jid`), name, state and start of every job that the cluster remembers."""
        return list(self._call("/jobs/overview")["jobs"])

    def job(self, job_id: str) -> dict[str, Any]:
        """State of a job, and of its vertices."""
        return dict(self._call(f"/jobs/{job_id}"))

    def exceptions(self, job_id: str) -> list[str]:
        """Why attempts of a job failed, the latest first, each with its stack trace."""
        answer = self._call(f"/jobs/{job_id}/exceptions")
        entries = answer.get("exceptionHistory", {}).get("entries", [])
        found = [entry.get("stacktrace") for entry in entries] or [answer.get("root-exception")]
        return [str(trace) for trace in found if trace]

    def cancel(self, job_id: str) -> None:
        """Ask for a job's end; it goes on for a moment. Nothing where it has ended."""
        self._call(f"/jobs/{job_id}?mode=cancel", method="PATCH")

    def _call(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"{self.url}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise FlinkError(f"{self.url}{path}: {error.code} {error.reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            # URLError is an OSError, what urllib makes of a wrong URL a ValueError.
            raise FlinkError(f"{self.url}{path}: {getattr(error, 'reason', error)}") from error
