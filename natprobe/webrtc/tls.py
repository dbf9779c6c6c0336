"""Whom a client trusts over TLS: the system's authorities, or those that the environment names."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from natprobe.errors import CannotRun


def tls_context() -> ssl.SSLContext:
    """Return what a client trusts by default. Raises CannotRun where the environment names files that do not serve."""
    for variable, argument in (("SSL_CERT_FILE", "cafile"), ("SSL_CERT_DIR", "capath")):
        if path := os.environ.get(variable):
            # OpenSSL passes over what is not there, and then finds fault with each certificate.
            with _of_environment(variable, path):
                if argument == "capath":
                    os.scandir(path).close()
                else:
                    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    with _of_environment("SSLKEYLOGFILE", os.environ.get("SSLKEYLOGFILE", "")):
        return ssl.create_default_context()


@contextmanager
def _of_environment(variable: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as wrong:
        why = (wrong.strerror or str(wrong)).lower()
        raise CannotRun(f"{variable} names {path}, which cannot be used ({why}): correct or unset it") from None
