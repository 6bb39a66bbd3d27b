"""The model. Its files travel inside checkpoints: flat, self-contained, `AutoModel` finds them by remote code."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_pemoe import PeMoEConfig
from .losses_pemoe import InfoNCELoss, TripletLoss
from .modeling_pemoe import PeMoEModel, PeMoEOutput
from .processing_pemoe import PeMoEProcessor

PeMoEConfig.register_for_auto_class()
PeMoEModel.register_for_auto_class("AutoModel")
PeMoEProcessor.register_for_auto_class("AutoProcessor")
AutoConfig.register("pemoe", PeMoEConfig, exist_ok=True)
AutoModel.register(PeMoEConfig, PeMoEModel, exist_ok=True)
AutoProcessor.register(PeMoEConfig, PeMoEProcessor, exist_ok=True)

__all__ = ["InfoNCELoss", "PeMoEConfig", "PeMoEModel", "PeMoEOutput", "PeMoEProcessor", "TripletLoss"]
