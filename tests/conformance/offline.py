"""Runs a command in a network namespace of its own, which has nothing but the loopback device.

`python -m tests.conformance.offline COMMAND …`. Servers that listen at every address are reached by
nobody there, and what would need the network fails. Needs Linux and the right to make namespaces;
where these are missing the command fails with CI=true, and runs as it is elsewhere.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys

OFFLINE = "LEXBEAM_TEST_OFFLINE"
_UNSHARE = ("unshare", "--map-root-user", "--net")
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1


def raise_loopback() -> None:
    """Switch the loopback device on, which is off in a new namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def main(command: list[str]) -> None:
    """Replace this process by the command, in a namespace."""
    if os.environ.get(OFFLINE) == "inside":
        raise_loopback()
        os.execvp(command[0], command)
    try:
        subprocess.run([*_UNSHARE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI") == "true":
            sys.exit(f"no network namespace can be made: {error}")
        print(f"no network namespace can be made ({error}): going on in this one", file=sys.stderr)
        os.execvp(command[0], command)
    os.environ[OFFLINE] = "inside"
    module = [sys.executable, "-m", "tests.conformance.offline"]
    os.execvp(_UNSHARE[0], [*_UNSHARE, *module, *command])


if __name__ == "__main__":
    main(sys.argv[1:])
