"""What a run is configured with: its sections, and how they are read from and written to TOML."""
