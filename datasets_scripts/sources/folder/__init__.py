"""A user's folder of photos: files, tables, positions, rows."""
