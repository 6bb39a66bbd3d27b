"""Building data sets: rows through every step, into Parquet."""
