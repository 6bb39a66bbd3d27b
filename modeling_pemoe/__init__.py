"""The model. Its files travel inside checkpoints: flat, self-contained, `AutoModel` finds them by remote code."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_pemoe import PeMoEConfig
from .losses_pemoe import InfoNCELoss, TripletLoss
from .modeling_pemoe import PeMoEModel, PeMoEOutput
from .pipeline_pemoe import GeoLocalizationPipeline
from .processing_pemoe import PeMoEProcessor

PeMoEConfig.register_for_auto_class()
PeMoEModel.register_for_auto_class("AutoModel")
PeMoEProcessor.register_for_auto_class("AutoProcessor")
AutoConfig.register("pemoe", PeMoEConfig, exist_ok=True)
AutoModel.register(PeMoEConfig, PeMoEModel, exist_ok=True)
AutoProcessor.register(PeMoEConfig, PeMoEProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "geo-localization", pipeline_class=GeoLocalizationPipeline, pt_model=AutoModel, type="multimodal"
)

__all__ = [
    "GeoLocalizationPipeline",
    "InfoNCELoss",
    "PeMoEConfig",
    "PeMoEModel",
    "PeMoEOutput",
    "PeMoEProcessor",
    "TripletLoss",
]
