"""Refining captions with a language model: prompts, calls, cache, budget, judging."""
