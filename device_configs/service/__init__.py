"""How wherry's programs run under systemd: their units, how they are installed, what they say."""
