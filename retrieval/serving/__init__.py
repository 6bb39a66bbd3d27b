"""The same over HTTP: bounded, watched, stopped gracefully."""
