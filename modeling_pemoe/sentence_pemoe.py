"""The model as a module of sentence-transformers."""


class PeMoESentenceModule:
    """Gives texts and pictures as the fused vectors of the model."""
