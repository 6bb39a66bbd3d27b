"""Texts of captions: sentences, and what each platform can see."""
