"""Repairs and drops what the audit finds; each filter acts only if named."""
