"""How many files this process may have open: a connection is one, and the usual limit is soon reached."""

from __future__ import annotations


def file_limit() -> int:
    """Return how many descriptors this process may have."""
    import resource  # noqa: PLC0415 only Unix has it, and the lab in memory imports this module anywhere

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_file_limit(wanted: int) -> int:
    """Raise the limit towards ``wanted``, as far as this user may, and return what it is now. It is never lowered."""
    import resource  # noqa: PLC0415 only Unix has it, and the lab in memory imports this module anywhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((max(soft, wanted), max(hard, wanted)), (max(soft, min(wanted, hard)), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        except (OSError, ValueError):
            continue
        break
    return file_limit()
