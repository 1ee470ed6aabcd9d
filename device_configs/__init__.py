"""Device profiles as data (TOML) and their loader."""
