"""GeoText-1652's layout: names, records, files, rows."""
