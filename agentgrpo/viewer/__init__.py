"""The web inspector: a local page over runs on disk. It reads the store and knows neither torch nor engines."""
