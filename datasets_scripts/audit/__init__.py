"""The audit: which defects a data set has, counted and exampled, and the filters that repair or drop them."""
