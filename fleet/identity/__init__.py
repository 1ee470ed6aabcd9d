"""Who may speak: the fleet's CA, one-time codes, certificates, revocation, broker settings."""
