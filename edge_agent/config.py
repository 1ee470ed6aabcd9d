"""The agent's configuration file: one TOML, every key typed, unknown keys refused."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Literal, get_args

import msgspec

from edge_agent.errors import AgentError
from edge_agent.update.readiness import UpdatePolicy
from edge_contract.errors import ContractError, ExitCode
from edge_contract.health import HealthSpec
from edge_contract.model import LineName
from edge_contract.profile import ProfileId
from edge_contract.topics import check_id

_PROXY = re.compile(r"http://([^@/\s]+@)?[A-Za-z0-9.-]+:[0-9]{1,5}/?")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DeviceSection(_Section, frozen=True, kw_only=True):
    """Who this device is. ``hardware`` is a profile id; ``line`` the model line that it runs."""

    fleet: str
    id: str
    hardware: ProfileId
    line: LineName
    state_dir: str

    def __post_init__(self) -> None:
        check_id(self.fleet, what="device.fleet")
        check_id(self.id, what="device.id")
        if not Path(self.state_dir).is_absolute():
            raise ContractError(
                f"device.state_dir: expected an absolute path, got {self.state_dir}"
            )


class TrustSection(_Section, frozen=True, kw_only=True):
    """``root``: the TUF root that this device starts from (``edge-fleet root`` prints it).

    ``remote_config``: the fleet may change the few settings of ``edge_contract.configuration``.
    """

    root: str
    remote_config: bool = True


class MqttSection(_Section, frozen=True, kw_only=True):
    """Where the broker is. ``resend_s``: records without an acknowledgement go again after this.

    ``tls``: with the certificate that ``edge-agent enroll`` got. ``enroll_host`` ("": the same) and
    ``enroll_port``: the listener for devices without one. ``proxy``:
    ``http://[user:password@]host:port``.
    """

    host: str
    port: int = 1883
    keepalive_s: int = 30
    resend_s: float = 15.0
    reconnect_max_s: float = 60.0
    tls: bool = False
    transport: Literal["tcp", "websockets"] = "tcp"
    path: str = "/mqtt"
    proxy: str = ""
    enroll_host: str = ""
    enroll_port: int = 8884

    def __post_init__(self) -> None:
        if not self.host or not 0 < self.port < 65536 or not 5 <= self.keepalive_s <= 65535:
            raise ContractError(
                "mqtt: expected a host, a port of 1 to 65535 and keepalive_s of 5 to 65535, got"
                f" {self.host!r}, {self.port} and {self.keepalive_s}"
            )
        if not 0 < self.resend_s <= 86400 or not 1 <= self.reconnect_max_s <= 86400:
            raise ContractError(
                "mqtt: expected resend_s above 0 and reconnect_max_s of at least 1, both to 86400,"
                f" got {self.resend_s} and {self.reconnect_max_s}"
            )
        if not self.path.startswith("/") or not 0 < self.enroll_port < 65536:
            raise ContractError(
                "mqtt: expected a path that begins with / and an enroll_port of 1 to 65535, got"
                f" {self.path!r} and {self.enroll_port}"
            )
        if self.proxy and not _PROXY.fullmatch(self.proxy):
            raise ContractError("mqtt.proxy: expected http://[user:password@]host:port")


class LinkSection(_Section, frozen=True, kw_only=True):
    """``metered``: count every byte, both ways, and stay below ``budget_mb_per_day``."""

    metered: bool = False
    budget_mb_per_day: float = 1.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.budget_mb_per_day <= 1e6:
            raise ContractError(
                f"link.budget_mb_per_day: expected 0.01 to 1000000, got {self.budget_mb_per_day}"
            )

    @property
    def limit_bytes(self) -> int:
        """Of a day; 0 where the link is not metered."""
        return int(self.budget_mb_per_day * 1e6) if self.metered else 0


class TransferSection(_Section, frozen=True, kw_only=True):
    """``http``: fetch blobs from below this URL first ("" for MQTT only); ``rate_max_kb_s``: take
    no more than this (0 for no limit)."""

    http: str = ""
    rate_max_kb_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate_max_kb_s <= 1e9:
            raise ContractError(
                f"transfer.rate_max_kb_s: expected 0 to 1e9, got {self.rate_max_kb_s}"
            )
        if self.http and not self.http.startswith(("https://", "http://")):
            raise ContractError(f"transfer.http: expected https://host/path, got {self.http!r}")


class SourceSection(_Section, frozen=True, kw_only=True):
    """Where frames come from.

    ``directory``: image or ``.npy`` files below ``path``, in sorted order, again and again where
    ``loop`` is set. ``video``: a file. ``camera``: ``path`` is a device number or URL.
    """

    kind: Literal["directory", "video", "camera"]
    path: str
    rate_hz: float = 10.0
    loop: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.rate_hz <= 1000:
            raise ContractError(f"source.rate_hz: expected above 0 to 1000, got {self.rate_hz}")


class OutputSection(_Section, frozen=True, kw_only=True):
    """``predictions``: a JSON-lines file that gets one line a frame ("" for none)."""

    predictions: str = ""


class TelemetrySection(_Section, frozen=True, kw_only=True):
    """``window_s``: seconds that one summary covers. ``ledger``: keep a list of spooled records."""

    window_s: float = 300.0
    spool_cap_mb: float = 64.0
    ledger: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.window_s <= 86400 or not 1 <= self.spool_cap_mb <= 1e6:
            raise ContractError(
                "telemetry: expected window_s of 0.5 to 86400 and spool_cap_mb of 1 to 1000000, got"
                f" {self.window_s} and {self.spool_cap_mb}"
            )


class DriftSection(_Section, frozen=True, kw_only=True):
    """Drift detection on the device (docs/explanation/drift.md).

    ``sample_hz`` should be low enough that two samples show different scenes.
    """

    enabled: bool = True
    sample_hz: float = 1.0
    alarms_per_device_year: float = 1.0
    commission_samples: int = 5000
    window_s: float = 3600.0

    def __post_init__(self) -> None:
        # Written so that NaN fails every one of them: it must never read as "off".
        rates = 0 < self.sample_hz <= 1000 and 0 < self.alarms_per_device_year <= 1e6
        if not rates or self.commission_samples < 100 or not 0.5 <= self.window_s <= 604800:
            raise ContractError(
                "drift: expected sample_hz above 0 to 1000, alarms_per_device_year above 0 to"
                " 1000000, commission_samples of at least 100 and window_s of 0.5 to 604800, got"
                f" {self.sample_hz}, {self.alarms_per_device_year}, {self.commission_samples} and"
                f" {self.window_s}"
            )


class HooksSection(_Section, frozen=True, kw_only=True):
    """``directory`` holds ``v1/pre-install`` and so on ("" for none).

    ``from_bundle``: hooks that travel, signed, in a bundle are asked as well.
    """

    directory: str = ""
    from_bundle: bool = False


class AgentConfig(_Section, frozen=True, kw_only=True):
    """The whole file. Without ``[mqtt]`` the agent stays offline."""

    device: DeviceSection
    trust: TrustSection
    source: SourceSection
    mqtt: MqttSection | None = None
    link: LinkSection = LinkSection()
    transfer: TransferSection = TransferSection()
    output: OutputSection = OutputSection()
    telemetry: TelemetrySection = TelemetrySection()
    drift: DriftSection = DriftSection()
    hooks: HooksSection = HooksSection()
    update: UpdatePolicy = UpdatePolicy()
    health: HealthSpec = HealthSpec(
        trial_s=10.0,
        frames_min=20,
        latency_ratio_max=10.0,
        errors_share_max=0.05,
        restarts_max=3,
        deadline_s=3600.0,
    )
    """The device's own policy: an order's health spec may be stricter, never looser."""


def load_config(path: Path) -> AgentConfig:
    """Read and check the configuration file.

    Raises:
        AgentError: missing, not TOML, an unknown key, or a value out of range; names it.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=AgentConfig)
    except FileNotFoundError as error:
        raise AgentError(
            f"no configuration file {path}",
            hint="docs/reference/edge-agent.md shows one to start from",
            exit_code=ExitCode.NOT_FOUND,
        ) from error
    except OSError as error:
        raise AgentError(f"cannot read {path}: {error.strerror}") from error
    except ContractError as error:
        raise AgentError(f"{path}: {error.message}", exit_code=ExitCode.USAGE) from error
    except msgspec.ValidationError as error:
        message, hint = _plainly(str(error))
        raise AgentError(f"{path}: {message}", hint=hint, exit_code=ExitCode.USAGE) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise AgentError(f"{path}: {error}", exit_code=ExitCode.USAGE) from error


def _plainly(found: str) -> tuple[str, str]:
    """(what is wrong, what to do) in the words of the file, from what msgspec found."""
    what, _, at = found.partition(" - at `$")
    place = at.strip("`.")
    where = f"[{place}]" if place else "the file"
    if unknown := _UNKNOWN.fullmatch(what):
        known = _settings_of(place)
        near = difflib.get_close_matches(unknown[1], known, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"{where} has no {unknown[1]!r}", f"{meant}there are {', '.join(known)}"
    if missing := _MISSING.fullmatch(what):
        return f"{where} lacks {missing[1]!r}", "docs/reference/edge-agent.md says what it is"
    return (f"{place}: " if place else "") + what[:1].lower() + what[1:].replace("`", ""), ""


def _settings_of(place: str) -> list[str]:
    sections = {field.name: field.type for field in msgspec.structs.fields(AgentConfig)}
    kind = sections.get(place, AgentConfig)
    kinds = [part for part in (kind, *get_args(kind)) if part is not type(None)]
    struct = next(part for part in kinds if isinstance(part, type))
    return [field.name for field in msgspec.structs.fields(struct)]
