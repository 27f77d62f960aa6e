"""Errors as sentences: what went wrong and what to do, for a person at a terminal."""

from __future__ import annotations


def sentence(error: BaseException) -> str:
    """What went wrong and what to do, without what only Hydra's developers need."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    reason = str(error.__cause__).partition("\n")[0]
    match type(error).__name__:
        case "MissingConfigException":
            first, *rest = filter(None, lines[: lines.index("Config search path:")])
            return f"{first}. {' '.join(rest)}"
        case "OverrideParseException":
            told = [line.partition(" expecting")[0] for line in lines if "See " not in line]
            return f"{': '.join(told)} (quote brackets and commas: 'key=\"[AM]\"')"
        case "ConfigCompositionException" if lines[0].startswith("Could not override"):
            return f"{lines[0].rstrip('.')}: {reason}; --cfg job lists the keys"
        case "ConfigCompositionException" if reason != "None":
            return f"{lines[0].removeprefix('Error merging override ')}: {reason}"
        case "ValueError":
            return str(error)
        case _:
            return lines[0]
