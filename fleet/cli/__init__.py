"""The command line ``edge-fleet``."""

from fleet.cli.approve import approve
from fleet.cli.backup import backup, restore
from fleet.cli.broker import broker
from fleet.cli.ca import ca
from fleet.cli.command import command
from fleet.cli.configure import configure
from fleet.cli.doctor import doctor
from fleet.cli.enroll import enroll_code
from fleet.cli.event import event
from fleet.cli.export import export, import_receipts
from fleet.cli.fleet_views import devices, drift
from fleet.cli.key import key
from fleet.cli.line import line
from fleet.cli.media import media
from fleet.cli.publish import publish, root
from fleet.cli.rollout import rollout
from fleet.cli.service import install_service
from fleet.cli.subscribe import subscribe
from fleet.cli.terminal import main
from fleet.cli.up import up
from fleet.cli.verify import audit, verify

for _command in (
    *(up, broker, ca, enroll_code, publish, rollout, devices, drift, command, subscribe, doctor),
    *(key, approve, event, line, media, verify, audit, backup, restore, root, install_service),
    *(export, import_receipts, configure),
):
    main.add_command(_command)

__all__ = ["main"]
