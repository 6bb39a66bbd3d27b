"""The card of a model, README.md of its repository: every number is of the configuration or of `metrics.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from huggingface_hub import EvalResult, ModelCardData
from transformers import PreTrainedConfig

TAGS = ["pe-moe", "geo-localization", "text-to-image-retrieval", "sentence-transformers", "custom_code"]
FIGURES = ("recall_at_1", "recall_at_5", "recall_at_10", "score")
CUTOFFS = (1, 5, 10)
BOUNDS = ("chance", "ceiling")
LABELS = dict(zip(FIGURES, ("R@1", "R@5", "R@10", "Score"), strict=True))
BACKBONE_LICENCES = {
    "BAAI/bge-m3": "MIT",
    "QuanSun/EVA-CLIP": "MIT",
    "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k": "MIT",
}
SHIPPED_TRUNKS = ("6f7ab355d0e8e9dfc4a405bb657be716dc8df27d91ea3d40253d1fda8030de71",)  # fp32, of the small backbones
BACKBONE_PAPERS = {  # by words of the repository's name
    "bge m3": "J. Chen et al., *BGE M3-Embedding*, 2024, [arXiv 2402.03216](https://arxiv.org/abs/2402.03216)",
    r"eva(\d\d)?": "Q. Sun et al., *EVA-CLIP*, 2023, [arXiv 2303.15389](https://arxiv.org/abs/2303.15389)",
}
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def render_model_card(
    config: PreTrainedConfig,
    *,
    repo_id: str | None,
    metrics: dict | None,
    license_id: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """The README.md of a model's repository: YAML metadata, then what the model is, measured to do, and how it loads.

    Every number is of `config` or `metrics`; nothing of this machine is in it, of directories the last name at most.

    Args:
        config: of a PE-MoE model.
        repo_id: where it will be found; None: the code blocks are for the folder itself.
        metrics: content of a `metrics.json` of `pemoe evaluate` or `pemoe train`; None says that nothing was measured.
        license_id: of the weights, as the Hub names licences; None says that none is stated.
        tags: further ones for the metadata.

    Raises:
        ValueError: a figure is missing from `metrics`; it is named.

    Example:
        >>> card = render_model_card(model.config, repo_id="me/pemoe", metrics=None)  # doctest: +SKIP
    """
    name, figures = (repo_id or "PE-MoE").rpartition("/")[2], _read_figures(metrics)
    data = _read_data(metrics) if figures else None
    text = _CARD.format(
        metadata=_metadata(config, figures, data, model_name=name, license=license_id, tags=[*TAGS, *tags]),
        name=name,
        repo=repo_id or ".",
        experts=", ".join(f"`{platform}`" for platform in config.platforms),
        parts=_describe_parts(config),
        training=_describe_training(metrics),
        results=_describe_results(figures, data) if figures else "Nothing was measured.",
        gate=_describe_gate(config, figures),
        max_text_tokens=config.max_text_tokens,
        image_size=config.image_size,
        licences=_describe_licences(config, license_id),
        papers="\n".join(_cite_backbones(config)),
    )
    return text.rstrip() + "\n"


_CARD = """---
{metadata}
---

# {name}

Finds pictures of a place from a sentence about it. A text and an image encoder, both frozen, carry one expert per
platform ({experts}); a gate reads the sentence and weighs the experts:

    S(q, I) = sum_k g_k(q) cos(t_k, v_k)

which is one inner product of a query's and a picture's vector; [the paper](https://arxiv.org/abs/2510.20291) calls it
PE-MoE.

{parts}

## How to load it

```python
from transformers import AutoModel, AutoProcessor, pipeline

pictures = ["arena.jpg", "car_park.jpg"]  # paths or opened pictures
model = AutoModel.from_pretrained("{repo}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
query = model.encode_text(["a round white arena beside a car park"], processor)
scores = query @ model.encode_images(pictures, processor).T

pipe = pipeline("geo-localization", model="{repo}", trust_remote_code=True)
places = pipe("a round white arena beside a car park", gallery=pictures)
```

```python
from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer("{repo}", trust_remote_code=True)
scores = encoder.similarity(encoder.encode(["a round white arena"]), encoder.encode(pictures))  # inner product
```

Read the code in this repository before you trust it, and pin a `revision`. It needs torch, torchvision, transformers
and timm, the second block sentence-transformers too.

## How it was trained

{training}

## Results

{results}

## What the gate does

{gate}

## What it is for, and what not

For finding, in a collection of pictures whose places are known, those that show the place a sentence describes:
searching an archive by words, research on retrieval across platforms, a first guess for a person who then looks at the
pictures. The answer is always one of the collection's places, and the score orders them: it is no probability.

Misuse is to locate people by their photographs: do not use it to find out where a person lives, works or stays from
pictures or from what they write, to follow or harass anyone, or to undo what was done to hide a place. Do not let it
choose targets, and let no rescue, navigation or enforcement rest on its answer without a person who checks it.
Pictures and descriptions of places can be personal data: whoever builds a collection answers for the right to it.

## Limits

- It knows no coordinates: it finds places that are in the gallery, as they looked when the pictures were taken.
- Places that are described in the same words cannot be told apart.
- What stands after {max_text_tokens} tokens of a description is not read; pictures are seen at {image_size} x \
{image_size} px, so small things are lost.
- Other regions, seasons, languages and ways of describing than those it was trained on can give much worse answers,
  and nothing warns of it. An interval covers the choice of places, not another training run or other data.

## Licences

{licences}

## How to cite it

```bibtex
@misc{{li2025pemoe,
  title  = {{A Parameter-Efficient Mixture-of-Experts Framework for Cross-Modal Geo-Localization}},
  author = {{Li, L. and others}}, year = {{2025}}, eprint = {{2510.20291}}, archivePrefix = {{arXiv}}
}}
```

{papers}
"""
_RESULTS = """Measured on the split `{split}` of {where} (source `{source}`, {rows} rows, fingerprint `{fingerprint}`).
Every caption is a query, every picture of the split is in one gallery, and a hit is any picture of the query's place.
Percent; in brackets the 95 % interval of a bootstrap over places; Score is the mean of R@1 and R@10.

{table}

Chance is a random order of the gallery. The ceiling is what any system that reads the sentence alone can reach: where
one sentence asks for several places, no more of them than answers can be right.

{bounds}"""


def _metadata(config: PreTrainedConfig, figures: dict | None, data: dict | None, **fields: object) -> str:
    """The YAML block, with a model index where something was measured."""
    fields |= {"library_name": "transformers", "pipeline_tag": "feature-extraction"}
    fields["base_model"] = hub_backbones(config) or None
    if figures:
        fields["datasets"] = [data["hub_id"]] if data["hub_id"] else None
        fields |= {"metrics": ["recall"], "eval_results": _evaluations(figures, data)}
    return ModelCardData(**fields).to_yaml()


def _evaluations(figures: dict, data: dict) -> list[EvalResult]:
    """All queries first, then those of each platform, each figure with its interval."""
    return [
        EvalResult(
            task_type="feature-extraction",
            task_name="Text-to-image retrieval of places",
            dataset_type=data["hub_id"] or data["name"],
            dataset_name=data["name"],
            dataset_config=platform or "all",
            dataset_split=data["split"],
            metric_type=figure,
            metric_name=LABELS[figure] + (f", queries of {platform}" if platform else ""),
            metric_value=block[figure],
            metric_args={"interval_95": list(block["intervals"][figure])},
        )
        for platform, block in {"": figures, **figures["per_platform"]}.items()
        for figure in FIGURES
    ]


def _read_figures(metrics: dict | None) -> dict | None:
    """The measured block of a `metrics.json`, every figure checked; None where nothing was measured."""
    if metrics is None:
        return None
    results = _table_of(metrics, "results")
    if "test" in results and results["test"] is None:  # trained on data without test captions
        return None
    figures = _table_of(results, "test") if "test" in results else results
    names = ["n_queries", *FIGURES, *(f"{kind}_recall_at_{k}" for kind in BOUNDS for k in CUTOFFS)]
    platforms = _table_of(figures, "per_platform")
    blocks = {"": figures} | {f"per_platform.{name}.": _table_of(platforms, name) for name in platforms}
    for where, block in blocks.items():
        _require_numbers(block, names[:1], where)
        _require_numbers(block, names[1:], where, highest=1)
        for name in FIGURES:
            ends = _table_of(block, "intervals").get(name)
            pair = dict(zip(("low", "high"), ends, strict=False)) if isinstance(ends, (list, tuple)) else {}
            _require_numbers(pair, ("low", "high"), f"{where}intervals.{name}.", highest=1)
    if not platforms:
        raise ValueError(_missing("per_platform"))
    if "gate" not in figures:
        raise ValueError(_missing("gate"))
    return figures


def _table_of(content: dict, name: str) -> dict:
    """The object of this name; an empty one where there is none, so that its first figure is the missing one."""
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _require_numbers(block: dict, names: Iterable[str], where: str, highest: float = math.inf) -> None:
    for name in names:
        value = block.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(_missing(f"{where}{name}"))
        if value > highest or (value < 0 and highest == 1):
            raise ValueError(f"metrics: the figure {where}{name} is {value}; a fraction goes from 0 to 1")


def _missing(name: str) -> str:
    return f"metrics: the figure {name} is missing or no number; measure the model again with pemoe evaluate"


def _read_data(metrics: dict) -> dict:
    """What was measured on: `{"name", "hub_id", "source", "split", "rows", "fingerprint"}`; `hub_id` may be None."""
    data = _table_of(metrics, "data")
    for field in ("source", "fingerprint", "split", "rows"):
        if data.get(field) is None:
            raise ValueError(_missing(f"data.{field}"))
    name = shown_root(str(data.get("root") or data["source"]))
    is_id = data["source"] == "parquet" and "/" in name
    return {**data, "name": re.sub(r"[^\w./ -]", "_", name), "hub_id": name if is_id else None}


def shown_root(root: str) -> str:
    """The id of a data set on the Hub; of a directory, which is stated by its whole path, the last name."""
    return root if _HUB_ID.fullmatch(root) else re.split(r"[/\\]", root.rstrip("/\\"))[-1]


def hub_backbones(config: PreTrainedConfig) -> list[str]:
    """Backbones that are repositories of the Hub; directories are not."""
    return [repo for repo in (config.text_repo, config.vision_repo) if repo and _HUB_ID.fullmatch(repo)]


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells after the first are aligned right where there are more than two."""
    lines = [header, ["---", *["---" if len(header) == 2 else "---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _describe_parts(config: PreTrainedConfig) -> str:
    text, length = config.text_config, config.num_experts * config.embed_dim
    layers = f"the last {config.text_expert_layers} text layers, the last {config.vision_expert_layers} image blocks"
    encoder = f"{text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}"
    sizes = [f"{name} {value}" for name, value in config.vision_config.get("model_args", {}).items()]
    vision = config.vision_config["architecture"] + (f" with {', '.join(sizes)}" if sizes else "")
    reads_patches = config.image_path == "visualized_bge"
    projection = (
        "a projection of an image's patches, which the text encoder reads" if reads_patches else "a projection"
    )
    masked, is_whole = ", ".join(config.masked_platforms), config.backbone_weights == "included"
    everything, experts = "everything", "experts and gate; the encoders are read from where they are, checked by hash"
    rows = [
        ("experts", f"{config.num_experts}; each owns {layers} and {projection}"),
        ("text encoder", f"{encoder}; {_from_where(config.text_repo, config.text_revision, is_whole)}"),
        ("image encoder", f"{vision}; {_from_where(config.vision_repo, config.vision_revision, is_whole)}"),
        ("gate", config.gate + (f"; {masked}: weight 0 until a gate stage has included it" if masked else "")),
        ("vectors", f"{length} numbers ({config.num_experts} x {config.embed_dim}), compared by inner product"),
        ("stored here", everything if is_whole else experts),
    ]
    return _table(["part", "what"], rows)


def _from_where(repo: str | None, revision: str | None, is_whole: bool) -> str:
    if repo and _HUB_ID.fullmatch(repo):
        return f"`{repo}`" + (f" at `{revision}`" if revision else "")
    return "of no repository on the Hub, its weights are here" if is_whole else "read from a directory"


def _describe_training(metrics: dict | None) -> str:
    stages = _table_of(_table_of(metrics or {}, "results"), "stages")
    if not stages:
        return "The encoders stayed frozen. How experts and gate were trained is not recorded beside the figures."
    rows = []
    for name in stages:
        record = _table_of(stages, name)
        wanted = ("k",) if name == "mine" else ("steps", "pairs_seen", "train_loss")
        _require_numbers(record, wanted, f"stages.{name}.")
        if name == "mine":
            rows.append((name, f"hard negatives, {record['k']} for each picture", "", "", ""))
        else:
            loss = f"{record['train_loss']:.4f}"
            rows.append((name, record.get("stage", name), record["steps"], record["pairs_seen"], loss))
    seed = f", seed {metrics['seed']}" if metrics.get("seed") is not None else ""
    table = _table(["stage", "objective", "steps", "pairs seen", "mean loss"], rows)
    return f"The encoders stayed frozen; experts and gate were trained in these stages{seed}:\n\n{table}"


def _describe_results(figures: dict, data: dict) -> str:
    blocks = {"all": figures, **figures["per_platform"]}
    where = f"[{data['name']}](https://huggingface.co/datasets/{data['hub_id']})" if data["hub_id"] else data["name"]
    rows, bound_rows, bounds = [], [], [(kind, k) for kind in BOUNDS for k in CUTOFFS]
    for name, block in blocks.items():
        found = (_percent(block[figure], block["intervals"][figure]) for figure in FIGURES)
        rows.append((name, block["n_queries"], *found))
        bound_rows.append((name, *(_percent(block[f"{kind}_recall_at_{k}"]) for kind, k in bounds)))
    return _RESULTS.format(
        **{**data, "where": where, "fingerprint": str(data["fingerprint"])[:12]},
        table=_table(["queries of", "queries", *LABELS.values()], rows),
        bounds=_table(["queries of", *(f"{kind} R@{k}" for kind, k in bounds)], bound_rows),
    )


def _percent(fraction: float, ends: Sequence[float] = ()) -> str:
    return f"{100 * fraction:.1f}" + (f" [{', '.join(map(_percent, ends))}]" if ends else "")


def _describe_gate(config: PreTrainedConfig, figures: dict | None) -> str:
    if config.num_experts == 1:
        return "There is one expert, so there is nothing to weigh."
    if config.gate == "uniform":
        return "The weights are the same for every sentence: the experts are averaged."
    active = [name for name in config.platforms if name not in config.masked_platforms]
    if len(active) == 1:
        return f"The expert `{active[0]}` has the whole weight: no gate stage has included the others."
    gate = figures["gate"] if figures else None
    if gate is None:
        return "A softmax over the experts, computed from the sentence; what it does with queries was not measured."
    weights = _table_of(gate, "weights")
    for platform in weights:
        _require_numbers(_table_of(weights, platform), config.platforms, f"gate.weights.{platform}.")
    rows = [(name, *(f"{mean[one]:.3f}" for one in config.platforms)) for name, mean in weights.items()]
    table = _table(["queries of", *config.platforms], rows)
    text = f"Mean weight of each expert, by the platform of the picture that the query describes:\n\n{table}"
    if gate.get("names_platform") is None:  # no query's platform has an expert of its own
        return text
    _require_numbers(gate, ["names_platform"], "gate.")
    share = _percent(gate["names_platform"])
    return f"{text}\n\nThe largest weight is that of the query's own platform in {share} % of the queries."


def _describe_licences(config: PreTrainedConfig, license_id: str | None) -> str:
    own = license_id or "not stated by the owner of this repository; ask before you use them"
    rows = [("these weights", own), ("the code in this repository", "apache-2.0")]
    shipped = (config.trunk_sha256 or {}).get("float32") in SHIPPED_TRUNKS
    for kind, repo in {"text": config.text_repo, "image": config.vision_repo}.items():
        if repo and _HUB_ID.fullmatch(repo):
            licence = BACKBONE_LICENCES.get(repo, "not known here; see its repository")
            rows.append((f"{kind} encoder, [{repo}](https://huggingface.co/{repo})", licence))
        else:
            licence = "apache-2.0, shipped with the package" if shipped else "not known: it was read from a directory"
            rows.append((f"{kind} encoder", licence))
    return _table(["what", "licence"], rows)


def _cite_backbones(config: PreTrainedConfig) -> list[str]:
    repos = re.sub(r"[\W_]+", " ", " ".join(hub_backbones(config)).lower())  # _ and - end a word
    papers = [paper for words, paper in BACKBONE_PAPERS.items() if re.search(rf"\b{words}\b", repos)]
    return ["And its encoders:", "", *(f"- {paper}" for paper in papers)] if papers else []
