"""The README of LoRA platforms: what they are adapters of, how they are loaded, and what the gate knows of them."""

from __future__ import annotations

import os

from huggingface_hub import ModelCardData


def render_platform_card(
    base: str,
    platforms: list[dict],
    *,
    repo_id: str | None = None,
    license_id: str | None = None,
) -> str:
    """The README.md of a LoRA platform, or of several in folders of one repository.

    Args:
        base: Hub id or directory of their base model.
        platforms: `{"platform", "init_from", "rank", "folder"}` of each; "" is the repository itself.
        repo_id: where they will be found; None: the code blocks are for the folder itself.
        license_id: as the Hub names licences.
    """
    fields = {"base_model": None if os.path.isabs(base) else base, "license": license_id, "tags": _TAGS}
    relation = {} if os.path.isabs(base) else {"base_model_relation": "adapter"}
    rows = [
        f"| `{one['platform']}` | `{one['init_from']}` | {one['rank']} | {one['folder'] or '.'} |" for one in platforms
    ]
    loads = [f'model.load_platform("{repo_id}", subfolder="{one["folder"]}")' for one in platforms if one["folder"]]
    start = base if loads else repo_id or "."
    return _CARD.format(
        metadata=ModelCardData(library_name="transformers", **fields, **relation).to_yaml(),
        name=(repo_id or platforms[0]["platform"]).rpartition("/")[2],
        base=os.path.basename(base) if os.path.isabs(base) else base,
        platforms="\n".join(rows),
        start=start,
        loads="".join(f"{line}\n" for line in loads),
        licences="" if license_id else ", which hold for these adapters too",
    )


_TAGS = ["pe-moe", "lora", "peft", "geo-localization"]
_CARD = """---
{metadata}
---

# {name}

LoRA platforms for the PE-MoE model `{base}`. Each starts from one of its experts, whose weights stay as they are. A
new platform changes no vector and no score that was there before; one that starts from itself takes its expert's
place.

| platform | starts from | rank | folder |
|---|---|---|---|
{platforms}

## Load

```python
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{start}", trust_remote_code=True)
model = AutoModel.from_pretrained("{start}", trust_remote_code=True)
{loads}```

It needs peft; code, processor and encoders are the base's, and the adapters load on that base alone. The gate gives a
new platform the weight 0 until a gate stage has included it, so fused scores do not use it yet: search with its own
embeddings, `model(pixel_values=pixel_values, experts=[platform]).image_embeds`.

## Results

Nothing was measured.

## Limits and licence

Limits, intended use and misuse (locating people by their photographs) are those of the base model's card, and so are
the licences of its backbones{licences}.
"""
