"""The pipeline of a checkpoint: from a sentence to ranked places."""


class GeoLocalizationPipeline:
    """Takes a sentence and a gallery of pictures and ranks the places in it."""
