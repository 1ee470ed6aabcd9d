"""Imports without what a library brings along and an agent never calls.

A library's package may import all that it can do, whatever part of it is wanted, and each module
stays in a device's memory for good. Both ways here leave no trace: what was kept away is imported
as ever by whoever wants it afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

KEY_DRIVERS = ("pkcs11", "PyKCS11", "boto3", "azure.core", "google.cloud", "hvac")
"""What securesystemslib tries to import, so that a publisher can sign with hardware or in a cloud;
tens of MB where a device happens to have them. An agent verifies, and signs with its own file."""


@contextmanager
def left_out(*names: str) -> Iterator[None]:
    """Imports within find none of these modules, as if they were not installed."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        # How Python itself says that a module must not be found (importlib's reference).
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def bare_package(name: str) -> Iterator[None]:
    """Modules of the package ``parent.child`` are imported within, its own ``__init__`` is not.

    Later imports of the package make it anew, whole, with modules of its own.
    """
    above, _, last = name.rpartition(".")
    parent = find_spec(above)
    places = parent.submodule_search_locations if parent else None
    if name in sys.modules or places is None:
        yield
        return
    package = ModuleType(name)
    package.__path__ = [f"{place}/{last}" for place in places]
    sys.modules[name] = package
    try:
        yield
    finally:
        for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[module]


@contextmanager
def emptied(name: str) -> Iterator[None]:
    """Imports within get an empty module of this name, where it is not loaded yet."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


def import_paho(*, proxy: bool) -> None:
    """Import paho-mqtt, without urllib's HTTP client where no proxy is configured.

    paho needs it for one thing, the environment's proxies, and looks for those only where PySocks
    is installed. An agent's proxy stands in its configuration, so without one there it finds
    neither: a direct connection, and 1.5 MB less.
    """
    if proxy:
        return
    with left_out("socks"), emptied("urllib.request"):
        import paho.mqtt.client  # noqa: F401
