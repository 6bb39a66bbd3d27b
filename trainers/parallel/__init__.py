"""Several processes: gathering over them, and what launchers do to a model."""
