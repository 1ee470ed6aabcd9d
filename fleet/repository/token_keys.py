"""Keys in a token (PKCS#11: a YubiKey, an HSM, SoftHSM), through securesystemslib's HSMSigner.

Needs the extra ``wherry[hsm]`` and ``PYKCS11LIB``, the path of the token's library. Tokens sign
with ECDSA P-256 or P-384; TUF metadata holds such keys beside Ed25519 ones.
"""

from __future__ import annotations

import os

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner, SSlibKey

from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.repository.key_files import HeldKey, PublicKeyFile, public_key_file

_LIBRARY_VARIABLE = "PYKCS11LIB"
_PREFIX = "hsm:"


def token_name(text: str) -> str:
    """NAME of ``hsm:NAME``; "" for anything else."""
    return text.removeprefix(_PREFIX) if text.startswith(_PREFIX) else ""


def import_token_key(owner: str) -> PublicKeyFile:
    """The public half of the signing key in the only token that is plugged in.

    Raises:
        FleetError: the extra, the library or the token is missing.
    """
    return public_key_file(owner, _import()[1])


def open_token_key(owner: str, pin: str) -> HeldKey:
    """The key in the token, ready to sign.

    Raises:
        FleetError: the extra, the library or the token is missing.
    """
    uri, key = _import()
    signer = HSMSigner.from_priv_key_uri(uri, key, lambda _secret: pin)
    return HeldKey(owner, public_key_file(owner, key), signer)


def _import() -> tuple[str, SSlibKey]:
    if not os.environ.get(_LIBRARY_VARIABLE):
        raise FleetError(
            f"{_LIBRARY_VARIABLE} does not name the token's PKCS#11 library",
            hint=f"export {_LIBRARY_VARIABLE}=/usr/lib/x86_64-linux-gnu/libykcs11.so",
            exit_code=ExitCode.USAGE,
        )
    try:
        return HSMSigner.import_()
    except UnsupportedLibraryError as error:
        raise FleetError(
            f"PKCS#11 is not installed: {error}", hint="pip install 'wherry[hsm]'"
        ) from error
    except (ValueError, OSError, RuntimeError) as error:
        raise FleetError(f"no usable key in the token: {error}") from error
