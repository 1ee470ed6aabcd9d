"""What an operator wants of devices' settings, as data.

Light on purpose: the command line checks it before it looks for a manager.
"""

from __future__ import annotations

import msgspec

from edge_contract.configuration import SETTINGS, Value, check_settings
from edge_contract.errors import ContractError, ExitCode
from fleet.errors import FleetError


class ConfigureOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator wants changed.

    devices: these; None for every device that ``line`` and ``hardware`` ("" for any) leave.
    settings: to set; what is wanted already of other settings stays wanted.
    unset: settings of which nothing is wanted any more; the device's own value comes back.

    Raises:
        FleetError: nothing to change, an unknown setting, or a value out of its bounds.
    """

    devices: list[str] | None = None
    line: str = ""
    hardware: str = ""
    settings: dict[str, Value] = {}
    unset: list[str] = []

    def __post_init__(self) -> None:
        try:
            check_settings(self.settings, what="configure")
        except ContractError as error:
            raise _refused(error.message) from error
        for name in self.unset:
            if name not in SETTINGS or name in self.settings:
                raise _refused(f"--unset {name[:60]}: expected a setting that is not set as well")
        if not self.settings and not self.unset:
            raise _refused(f"nothing to change; there are the settings {', '.join(SETTINGS)}")


def _refused(message: str) -> FleetError:
    return FleetError(
        message,
        hint="edge-fleet configure --help lists settings and bounds",
        exit_code=ExitCode.USAGE,
        docs="how-to/configure-devices.md",
    )
