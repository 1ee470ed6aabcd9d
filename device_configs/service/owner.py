"""What root does in a service's directory, the service's own account must be able to go on with."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def hand_over(directory: Path) -> None:
    """Give what root made below ``directory`` to the directory's owner; nothing for anybody else.

    systemd looks at the owner of a ``StateDirectory`` itself, and leaves what is in it alone where
    that is right already. So a certificate that ``sudo edge-agent enroll`` fetched for a service
    that had run before would be closed to it.

    Symbolic links are not followed, and a file of root's with a second name is left alone: the
    service could have linked it there.
    """
    if os.geteuid() != 0:
        return
    try:
        # /var/lib/wherry of a service with an account of its own is a link.
        place = directory.resolve()
        owner = place.stat()
    except OSError:
        return
    if owner.st_uid == 0:
        return
    for _, folders, files, handle in os.fwalk(place):
        for name in (*folders, *files):
            try:
                found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                linked = stat.S_ISREG(found.st_mode) and found.st_nlink > 1
                if found.st_uid == 0 and not linked:
                    os.chown(name, owner.st_uid, owner.st_gid, dir_fd=handle, follow_symlinks=False)
            except FileNotFoundError:
                continue  # a running service replaced it just now
