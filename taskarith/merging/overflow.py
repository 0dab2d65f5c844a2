"""Values that are finite, but so large that what a method calculates of them is not."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from taskarith.errors import MismatchError

__all__ = ["naming_overflow"]


@contextmanager
def naming_overflow(name: str) -> Generator[None, None, None]:
    """Turn what numpy and torch raise of sums that overflow, and of matrices that hold such, into an error.

    :param name: The tensor that is worked on.
    :raises MismatchError: There was such a failure.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, FloatingPointError | OverflowError) and "LinAlgError" not in type(error).__name__:
            raise
        raise MismatchError(
            f"{name}: its deltas cannot be merged, since they hold values that are too large or not finite ({error})",
            f"Look for them with taskarith inspect; apply leaves out that tensor with --scale '{name}=0'.",
        ) from error
