"""Whole experiments: the quickstart, Table 1, the shipped backbones."""
