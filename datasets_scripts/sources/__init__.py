"""Reading: every source of rows, from archives, folders, tables and Parquet."""
