"""Chatter that a native library writes to stderr by itself is left out; all else comes through.

LiteRT announces its XNNPACK delegate once for every interpreter, and no setting of its Python
package turns that off.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

CHATTER = re.compile(rb"INFO: .*(?:TensorFlow Lite|XNNPACK|LiteRT|delegate)")
"""How such lines begin. Warnings and errors of the same library begin otherwise."""

_STDERR = 2
_one_at_a_time = threading.Lock()
"""There is one stderr."""


@contextmanager
def without_chatter() -> Iterator[None]:
    """Hold back what is written to stderr inside, and write it afterwards without ``CHATTER``.

    Other threads' lines come through, too, a moment later. Without a stderr, or without room to
    hold its lines, nothing is held back; a stderr that takes no more is no error of the work
    inside. What is held is lost if the process is killed in between, so keep that work short.
    """
    with _one_at_a_time:
        _flush()
        with ExitStack() as opened:
            try:
                # Unbuffered, or closing it would fail at what could not be written before.
                own = opened.enter_context(os.fdopen(os.dup(_STDERR), "wb", buffering=0))
                held = opened.enter_context(tempfile.TemporaryFile())
            except OSError:
                yield
                return
            os.dup2(held.fileno(), _STDERR)
            try:
                yield
            finally:
                _flush()
                os.dup2(own.fileno(), _STDERR)
                held.seek(0)
                with suppress(OSError):
                    own.writelines(line for line in held if not CHATTER.match(line))


def _flush() -> None:
    """A log on a full disk, or one that nobody reads any more, must not keep a model from being
    loaded, nor stderr from being put back."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
