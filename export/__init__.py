"""Exported models: graphs that run without this package, and what they lose."""

from pemoe.export.exporter import export_model, load_for_export, staged_output
from pemoe.export.sides import ExportError

__all__ = ["ExportError", "export_model", "load_for_export", "staged_output"]
