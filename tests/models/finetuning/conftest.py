"""What all tests of this folder have."""

from tests.models.one_thread import one_thread

__all__ = ["one_thread"]
