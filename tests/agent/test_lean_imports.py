"""What a device's agent keeps out of its memory, and that nobody else misses it."""

from __future__ import annotations

import subprocess
import sys

_LOADED = """
import sys
from edge_agent.lean_imports import KEY_DRIVERS, import_paho, left_out
with left_out(*KEY_DRIVERS):
    import_paho(proxy=False)
    import edge_agent.agent
heavy = {"http.client", "urllib3", "pkcs11", "boto3", "tarfile", "statistics", "onnxruntime", "cv2"}
print(sorted(heavy & set(sys.modules)))
import tuf.ngclient
print(tuf.ngclient.Updater.__module__, "urllib3" in sys.modules)
from edge_agent.trust.decision_core import TrustedMetadataSet
print(TrustedMetadataSet.__name__, None in sys.modules.values())
import urllib.request, paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
print(client._get_proxy(), callable(urllib.request.getproxies))
"""


def test_an_agent_loads_no_downloader_no_key_driver_and_no_runtime_before_a_model() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True
    )
    heavy, whole, core, proxy = done.stdout.splitlines()
    assert heavy == "[]"
    assert whole == "tuf.ngclient.updater True", "whoever wants the whole package gets it"
    assert core == "TrustedMetadataSet False"
    assert proxy == "None True", "paho looks for no proxy, and urllib is there for others"
