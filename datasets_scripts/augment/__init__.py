"""Satellite pictures flipped and turned, their words with them."""
