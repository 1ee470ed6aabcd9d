"""The manager: one thread that owns the store, one MQTT client, one loopback API."""
