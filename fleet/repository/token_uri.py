"""Which key in which token: a PKCS#11 URI (RFC 7512), of which four attributes are used."""

from __future__ import annotations

from dataclasses import dataclass, fields
from urllib.parse import quote, unquote_to_bytes

from edge_contract.errors import ExitCode
from fleet.errors import FleetError

_SCHEME = "pkcs11:"


@dataclass(frozen=True)
class TokenUri:
    """``pkcs11:token=LABEL;serial=S;id=%02;object=LABEL``; what is empty matches anything.

    token: the token's label.
    serial: the token's serial number, which tells two of one label apart.
    id: the key's CKA_ID.
    object: the key's label.
    """

    token: str = ""
    serial: str = ""
    id: bytes = b""
    object: str = ""

    @classmethod
    def parse(cls, text: str) -> TokenUri:
        """Read one.

        Raises:
            FleetError: not a PKCS#11 URI, or with an attribute that is not one of the four.
        """
        known = [field.name for field in fields(cls)]
        path = text.removeprefix(_SCHEME)
        values: dict[str, bytes] = {}
        for item in path.split(";") if path else ():
            name, equals, value = item.partition("=")
            if not equals or name not in known or name in values:
                path = text
                break
            values[name] = unquote_to_bytes(value)
        if path == text:
            raise FleetError(
                f"{text[:200]!r}: expected {_SCHEME}token=LABEL with any of {', '.join(known)},"
                " each once, parted by ';'",
                exit_code=ExitCode.USAGE,
            )
        try:
            texts = {name: value.decode() for name, value in values.items() if name != "id"}
        except UnicodeDecodeError as error:
            raise FleetError(
                f"{text[:200]!r}: not UTF-8: {error}", exit_code=ExitCode.USAGE
            ) from error
        return cls(**texts, id=values.get("id", b""))

    def __str__(self) -> str:
        parts = [
            f"{name}={quote(value, safe='')}"
            for name, value in (("token", self.token), ("serial", self.serial))
            if value
        ]
        if self.id:
            parts.append(f"id={''.join(f'%{byte:02X}' for byte in self.id)}")
        if self.object:
            parts.append(f"object={quote(self.object, safe='')}")
        return _SCHEME + ";".join(parts)
