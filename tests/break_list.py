"""The deliberate breaks: what each takes away, in which file, and the tests that must notice.

A break names the invariant of the design that it breaks; ``tests/breaks.py`` tries them.
"""

from __future__ import annotations

from typing import NamedTuple


class Break(NamedTuple):
    """One change that must not survive."""

    invariant: str
    what: str
    file: str
    old: str
    new: str
    tests: str


BREAKS = [
    Break(
        "1 nothing runs that was not approved",
        "an order's digest is not compared with the approved one",
        "edge_agent/trust/approved.py",
        "if target.digest != digest:",
        "if False:",
        "tests/trust/conformance/test_client_roles.py",
    ),
    Break(
        "1 nothing runs that was not approved",
        "any key may sign orders",
        "edge_agent/trust/order.py",
        "if signer not in {fingerprint(public) for public in trusted}:",
        "if False:",
        "tests/trust/test_orders.py",
    ),
    Break(
        "1 nothing runs that was not approved",
        "a blob's bytes are not checked when it is staged",
        "edge_agent/update/content.py",
        '    _require(descriptor, size_bytes, "sha256:" + state.hexdigest(), source)',
        "    pass",
        "tests/update/test_slots.py",
    ),
    Break(
        "1 nothing runs that was not approved",
        "the signed floor of a line is skipped",
        "edge_agent/trust/approved.py",
        "version_order(version) < version_order(self.min_release)",
        "False",
        "tests/attacks/test_orders.py::test_downgrade_below_the_signed_floor",
    ),
    Break(
        "1 nothing runs that was not approved",
        "the director may begin an epoch by itself",
        "edge_agent/trust/order.py",
        "    if epoch > anchored:",
        "    if False:",
        "tests/attacks/test_orders.py::test_captured_manager_raises_the_epoch_to_burn_every_number",
    ),
    Break(
        "1 nothing runs that was not approved",
        "an order counts again",
        "edge_agent/trust/order.py",
        "(desired.epoch, desired.seq) <= (last.epoch, last.seq)",
        "False",
        "tests/attacks/test_orders.py::test_replayed_sequence",
    ),
    Break(
        "1 nothing runs that was not approved",
        "a command's nonce counts twice",
        "edge_agent/trust/commands.py",
        "if command.nonce in self.expires:",
        "if False:",
        "tests/attacks/test_orders.py::test_replayed_nonce_of_a_command",
    ),
    Break(
        "1 nothing runs that was not approved",
        "the threshold of an offline role is not asked for",
        "edge_agent/trust/offline_roles.py",
        "    targets.signed.verify_delegate(OFFLINE_TIMESTAMP, ",
        "    print(OFFLINE_TIMESTAMP, ",
        "tests/attacks/test_files.py::test_medium_signed_by_one_of_two_offline_keys",
    ),
    Break(
        "1 nothing runs that was not approved",
        "a signing event may change more than its purpose",
        "fleet/repository/review.py",
        "if change.kind not in PERMITTED[purpose]:",
        "if False:",
        "tests/trust/test_signing_events.py::test_key_cannot_be_slipped_into_an_approval",
    ),
    Break(
        "1 nothing runs that was not approved",
        "a symbolic link in a bundle is followed",
        "edge_contract/layout.py",
        "if step.is_symlink():",
        "if False:",
        "tests/attacks/test_files.py::test_symbolic_link_in_a_bundle",
    ),
    Break(
        "2 what runs keeps running",
        "one bad message ends the agent's loop",
        "edge_agent/agent.py",
        "        except (WherryError, OSError) as error:\n            # One bad message",
        "        except ZeroDivisionError as error:\n            # One bad message",
        "tests/attacks/test_orders.py::test_fuzzed_messages_on",
    ),
    Break(
        "8 a malformed safety setting never reads as off",
        "a configuration counts again",
        "edge_agent/trust/configuration.py",
        "(found.epoch, found.seq) <= (last.epoch, last.seq)",
        "False",
        "tests/attacks/test_configurations.py::test_older_configuration_played_back",
    ),
    Break(
        "8 a malformed safety setting never reads as off",
        "the fleet loosens a limit of the device's own",
        "edge_contract/configuration.py",
        "holds[name] = min(mine, theirs)",
        "holds[name] = theirs",
        "tests/attacks/test_configurations.py::test_looser_limits_by_a_stolen_director_key",
    ),
    Break(
        "8 a malformed safety setting never reads as off",
        "a configuration is applied and not kept",
        "edge_agent/remote_config.py",
        "            save_configuration(self._path, accepted)\n",
        "",
        "tests/agent/test_remote_config.py",
    ),
    Break(
        "8 a malformed safety setting never reads as off",
        "a floor that is no version reads as none",
        "edge_agent/trust/verifier.py",
        "    if not isinstance(floor, str):",
        "    if not isinstance(floor, str):\n        return ''\n    if False:",
        "tests/attacks/test_metadata.py::test_malformed_floor_of_a_line",
    ),
    Break(
        "10 clocks are injected, time moves by signature only",
        "an answer to a question for the time counts twice",
        "edge_agent/orders.py",
        "        self._time_nonces.remove(nonce)",
        "        pass",
        "tests/attacks/test_orders.py::test_time_reply_that_counts_again",
    ),
    Break(
        "10 clocks are injected, time moves by signature only",
        "a time reply's nonce is not compared",
        "edge_agent/trust/time_floor.py",
        "if reply.nonce not in nonces:",
        "if False:",
        "tests/attacks/test_orders.py::test_replayed_time_reply",
    ),
    Break(
        "3 a power cut leaves the old or the new",
        "a root counts without the timestamp that goes with it",
        "fleet/repository/role_files.py",
        "                roots = roots[:-1]",
        "                raise",
        "tests/trust/test_crashes.py::"
        "test_crash_in_a_root_rotation_with_a_new_timestamp_key_leaves_old_or_new",
    ),
    Break(
        "1 nothing runs that was not approved",
        "an audit log whose end was cut off is whole",
        "fleet/repository/audit_log.py",
        "if not text.isdigit() or hashes.get(int(text)) != digest:",
        "if False:",
        "tests/trust/test_audit_log.py::"
        "test_audit_log_written_anew_with_a_stolen_key_does_not_match_signed_timestamps",
    ),
    Break(
        "3 a power cut leaves the old or the new model",
        "the new version becomes active before its commit is journalled",
        "edge_agent/update/manager.py",
        "        if (after != before or facts) and not self._written(event, after, facts):",
        "        for effect in effects:\n"
        "            if not isinstance(effect, Record):\n"
        "                self._perform(effect)\n"
        "        effects = ()\n"
        "        if (after != before or facts) and not self._written(event, after, facts):",
        "tests/update",
    ),
    Break(
        "3 a power cut leaves the old or the new model",
        "the journal is not synced",
        "edge_agent/update/journal.py",
        "            os.fsync(self._file)\n        except OSError as error:",
        "            pass\n        except OSError as error:",
        "tests/update",
    ),
    Break(
        "3 a newer order always supersedes",
        "a number taken by hand bars the fleet's order with it",
        "edge_agent/update/arrivals.py",
        "return order.key > (state.seen if order.by_hand else state.obeyed)",
        "return order.key > state.seen",
        "tests/update/test_by_hand.py",
    ),
    Break(
        "1 nothing runs that was not approved",
        "a medium counts as often as it is put in",
        "edge_agent/repeated_medium.py",
        "    if state.medium < sequence:",
        "    if True:",
        "tests/update/test_media_orders.py",
    ),
    Break(
        "3 a newer order always supersedes",
        "a medium that failed comes back over the order that came after it",
        "edge_agent/repeated_medium.py",
        "if newer is not None or ended is None or ended.order.medium != sequence:",
        "if ended is None:",
        "tests/update/test_media_orders.py",
    ),
    Break(
        "1 nothing runs that was not approved",
        "another medium with the last one's sequence counts",
        "edge_agent/trust/media.py",
        "if number != last and order.sequence <= last.sequence:",
        "if order.sequence < last.sequence:",
        "tests/update/test_media_orders.py",
    ),
    Break(
        "1 nothing runs that was not approved",
        "the switch does not look at the slot again",
        "edge_agent/update/slots.py",
        "            verify_content(self._files.path(self.spare_name()), digest)\n"
        "            self._checked = digest",
        "            self._checked = digest",
        "tests/update/test_manager.py",
    ),
    Break(
        "7 offline is neither success nor failure",
        "a medium that is being copied is cleaned away under the copy",
        "edge_agent/transfer/fetch.py",
        "        if not self._imports_count:",
        "        if True:",
        "tests/update/test_media_orders.py",
    ),
    Break(
        "4 model, labels and thresholds change as one",
        "the labels of the version before stay",
        "edge_agent/infer/engine.py",
        "manifest.labels[prediction.class_id :]",
        'globals().setdefault("_labels", manifest.labels)[prediction.class_id :]',
        "tests/agent/test_engine.py",
    ),
    Break(
        "5 inference never waits for a disk",
        "inference waits until the recorder has room",
        "edge_agent/infer/engine.py",
        "        if len(self.answers) == RESULTS_MAX:\n            self.answers_lost_count += 1",
        "        while len(self.answers) == RESULTS_MAX:\n            self._stop.wait(0.01)",
        "tests/agent/test_engine.py",
    ),
    Break(
        "6 nothing acknowledged into the spool is lost",
        "an acknowledgement trims one record too many",
        "edge_agent/telemetry/spool.py",
        "boot.number, first, last)",
        "boot.number, first, last + 1)",
        "tests/telemetry",
    ),
    Break(
        "6 nothing acknowledged into the spool is lost",
        "what is dropped leaves no tombstone",
        "edge_agent/telemetry/spool_store.py",
        "    def bury(",
        "    def bury(self, *_: object) -> None:\n        return\n\n    def _bury(",
        "tests/telemetry",
    ),
    Break(
        "identity: a code is for one key",
        "a used code answers another key",
        "fleet/identity/desk.py",
        "if (code.used_key, code.used_device) != (key, ask.device):",
        "if False:",
        "tests/attacks/test_identity_codes.py",
    ),
    Break(
        "identity: a certificate names who asked",
        "a request's name is not compared",
        "fleet/identity/certificates.py",
        'if names != [f"{fleet}/{device}"]:',
        "if False:",
        "tests/attacks/test_identity_codes.py",
    ),
    Break(
        "identity: who is revoked is not heard",
        "the manager takes messages of a revoked key in",
        "fleet/manager/intake.py",
        "elif key.hex() in self._desk.revoked:",
        "elif False:",
        "tests/identity/test_enrolment.py",
    ),
    Break(
        "identity: who is revoked is not heard",
        "a session is not taken over a second time",
        "fleet/manager/evictions.py",
        "if not done or self._stopping.wait(self._again_after_s):",
        "if True:",
        "tests/identity/test_revoked_connections.py",
    ),
    Break(
        "identity: who is revoked is not heard",
        "WebSocket listeners deny nobody",
        "fleet/identity/mosquitto_settings.py",
        "by_name = (_REVOKED_BY_NAME, WEBSOCKETS_ACL)",
        "by_name = (_REVOKED_BY_NAME, DEVICES_ACL)",
        "tests/identity/test_revoked_connections.py",
    ),
    Break(
        "identity: a device leaves nothing on the broker",
        "what may not be retained stays",
        "fleet/manager/connection.py",
        "if message.retain and is_litter(name):",
        "if False:",
        "tests/attacks/test_identity_broker.py",
    ),
    Break(
        "identity: the first contact is authenticated",
        "a device keeps whatever CA it is shown",
        "edge_agent/identity/certificate.py",
        "if ca_fingerprint(der) != fingerprint:",
        "if False:",
        "tests/identity/test_enrolment.py",
    ),
    Break(
        "identity: a device cannot order itself anything",
        "the broker lets a device write its whole subtree",
        "fleet/identity/mosquitto_settings.py",
        '    "enroll/renew",\n)',
        '    "enroll/renew",\n    "#",\n)',
        "tests/attacks/test_identity_broker.py",
    ),
]
