"""Packaging: maps the folders of the repository to `pemoe.*` and names what they need."""

from pathlib import Path

from setuptools import setup

# folder in the repository -> import name; works editable and as a wheel
PACKAGES = {
    "pemoe": "pemoe",
    "pemoe.modeling_pemoe": "modeling_pemoe",
    "pemoe.datasets_scripts": "datasets_scripts",
    "pemoe.datasets_scripts.audit": "datasets_scripts/audit",
    "pemoe.datasets_scripts.augment": "datasets_scripts/augment",
    "pemoe.datasets_scripts.builds": "datasets_scripts/builds",
    "pemoe.datasets_scripts.campus": "datasets_scripts/campus",
    "pemoe.datasets_scripts.filters": "datasets_scripts/filters",
    "pemoe.datasets_scripts.refine": "datasets_scripts/refine",
    "pemoe.datasets_scripts.refine.llm": "datasets_scripts/refine/llm",
    "pemoe.datasets_scripts.sanitize": "datasets_scripts/sanitize",
    "pemoe.datasets_scripts.sources": "datasets_scripts/sources",
    "pemoe.datasets_scripts.sources.folder": "datasets_scripts/sources/folder",
    "pemoe.datasets_scripts.sources.geotext": "datasets_scripts/sources/geotext",
    "pemoe.datasets_scripts.text": "datasets_scripts/text",
    "pemoe.hub_cards": "hub_cards",
    "pemoe.trainers": "trainers",
    "pemoe.trainers.batches": "trainers/batches",
    "pemoe.trainers.experiments": "trainers/experiments",
    "pemoe.trainers.mining": "trainers/mining",
    "pemoe.trainers.parallel": "trainers/parallel",
    "pemoe.trainers.recipes": "trainers/recipes",
    "pemoe.retrieval": "retrieval",
    "pemoe.retrieval.index": "retrieval/index",
    "pemoe.retrieval.index.milvus": "retrieval/index/milvus",
    "pemoe.retrieval.locating": "retrieval/locating",
    "pemoe.retrieval.serving": "retrieval/serving",
    "pemoe.export": "export",
    "pemoe.common": "common",
}

INSTALL_REQUIRES = [
    "torch>=2.6,<3",  # tensors and autograd
    "torchvision>=0.21,<1",  # image resizing behind CLIPImageProcessor
    "transformers>=5.23,<6",  # text encoder, remote code, Trainer; 5.23 is the version whose internals were measured
    "timm>=1.0.24,<2",  # EVA and ViT towers; from 1.0.24 they re-create their non-persistent buffers
    "open_clip_torch>=3.2,<4",  # reads open_clip repositories in from_backbones
    "datasets>=5.0,<6",  # rows, features, Parquet
    "accelerate>=1.10,<2",  # what Trainer runs on
    "huggingface_hub>=1.0,<3",  # downloads of pinned revisions
    "safetensors>=0.5,<1",  # the only weight format we write
    "peft>=0.19,<1",  # LoRA experts: adapters that its own tools read, merge and switch; Apache-2.0
    "evaluate>=0.4.6,<1",  # loads our metric modules, as any other of the Hub; Apache-2.0
    "typer>=0.16,<1",  # command line: types give options and --help; MIT
    "pyyaml>=6,<7",  # recipes; the format accelerate's own configs use; MIT
    "pillow>=10,<13",  # draws the campus, decodes images
    "numpy>=1.26,<3",
    "pyarrow>=24,<30",  # writes Parquet shard by shard; what datasets itself runs on; Apache-2.0
    "ijson>=3.3,<4",  # reads 250 MB of JSON records one by one in bounded memory; BSD
    "defusedxml>=0.7,<1",  # reads KML from anywhere and refuses entity bombs; PSF
    "ImageHash>=4.3,<5",  # perceptual hashes that find near-duplicate pictures; BSD-2
    "scipy>=1.11,<2",  # connected patches of text burnt into pictures; comes with ImageHash; BSD-3
    "jinja2>=3.1,<4",  # audit report and cards, escaped; in torch already; BSD-3
    "filelock>=3.13,<5",  # one process audits while the others wait; datasets locks its cache by it; Unlicense
    "tqdm>=4.66,<5",  # progress bars, already in transformers; MPL/MIT
    "lancedb>=0.40,<1",  # the index: a folder or object storage, versions, ANN with filters, kill-safe; Apache-2.0
    "shapely>=2.1,<3",  # areas as GeoJSON polygons: holes, validity, points inside; BSD-3
    "tenacity>=9,<10",  # tries of a language model again after a fault: waits, stops, Retry-After; Apache-2.0
]

RASTERIO = "rasterio>=1.4,<2"  # GeoTIFF tiles with their georeference, GDAL in the wheel; BSD-3
EXPORT = [
    "onnx>=1.17,<2",  # the graph's own checker and format; Apache-2.0
    "onnxscript>=0.5,<1",  # what torch.onnx writes graphs with; MIT
    "onnxruntime>=1.20,<2",  # runs them without torch, and quantizes to int8; MIT
]
SENTENCE_TRANSFORMERS = "sentence-transformers>=6,<7"  # its module interface is of version 6; Apache-2.0
GRADIO = "gradio>=6,<7"  # the Space's page, by keyboard and on a phone; Apache-2.0
SERVE = [
    "fastapi>=0.115,<1",  # the service: checked requests, OpenAPI; MIT
    "uvicorn>=0.30,<1",  # runs it, stops gracefully; BSD-3
    "prometheus-client>=0.20,<1",  # the format of /metrics; Apache-2.0
    "pydantic>=2,<3",  # checks requests; fastapi's own; MIT
]
MILVUS = "pymilvus>=3,<4"  # the index on a Milvus cluster, the same seven calls; Apache-2.0
RAY = [
    "ray[data]>=2.40,<3",  # reads, decodes and encodes on many machines; Apache-2.0
    "pylance>=14,<15",  # fragments written by workers, committed once; Apache-2.0
]
TENSORBOARD = "tensorboard>=2.15,<3"  # draws what training logs; torch writes its files through it; Apache-2.0
EXTRAS_REQUIRE = {
    "geo": [RASTERIO],
    "export": EXPORT,
    "sentence-transformers": [SENTENCE_TRANSFORMERS],
    "space": [GRADIO],
    "demo": [GRADIO],
    "serve": SERVE,
    "milvus": [MILVUS],
    "ray": RAY,
    "logs": [TENSORBOARD],
    "test": [
        "pytest>=8,<10",
        "pytest-xdist>=3.6,<4",  # the default tests on two cores at once; MIT
        "ruff>=0.15,<1",
        RASTERIO,
        *EXPORT,
        SENTENCE_TRANSFORMERS,
        GRADIO,
        *SERVE,
        MILVUS,
        *RAY,
        "selenium>=4.20,<5",  # drives Chromium through the demo; Apache-2.0
        TENSORBOARD,
        "transformers[serving]",  # a real endpoint to refine at
    ],
}

setup(
    name="pemoe",
    version="0.1.0",
    description="Find a place from a sentence: PE-MoE, three platform experts and a gate over frozen encoders",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "pemoe": ["py.typed"],
        "pemoe.common": ["coastline.json"],
        "pemoe.datasets_scripts.refine.llm": ["prompts/*.txt"],
        "pemoe.hub_cards": ["*.md", "metrics/*/*.py", "space/*", "endpoint/*"],
        "pemoe.trainers": ["tiny_backbones/*/*", "accelerate_configs/*.yaml"],
        "pemoe.trainers.recipes": ["*.yaml"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["pemoe=pemoe.__main__:main"]},
    classifiers=["Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
)
