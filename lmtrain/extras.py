"""Packages that come with an extra: whether they are here, in a version that works."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

EXTRAS = {"transformers": ("hf", (5, 20), 6), "lm_eval": ("harness", (0, 4, 13), 1)}
"""The extra of a package, the oldest version that works, and the first major one not known to."""


def needed(package: str, *, otherwise: str = "") -> None:
    """See that a package is there.

    Args:
        package: a key of `EXTRAS`.
        otherwise: what to say if the user would rather do without it, such as ``verify=false``.

    Raises:
        ValueError: it is missing, or of a version that does not work.
    """
    extra, oldest, newest = EXTRAS[package]
    remedy = f"pip install 'lmtrain[{extra}]'" + (f", or say {otherwise}" if otherwise else "")
    try:
        found = version(package)
    except PackageNotFoundError:
        raise ValueError(f"{package} is not installed: {remedy}") from None
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    if not oldest <= numbers < (newest,):
        least = ".".join(map(str, oldest))
        raise ValueError(
            f"{package} {found} is installed, and {least} or later is needed, below {newest}: "
            f"{remedy}"
        )
