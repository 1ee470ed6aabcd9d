"""Who this device is: its key, its certificate, and how it gets, keeps and renews them."""

from edge_agent.identity.device_key import Identity

__all__ = ["Identity"]
