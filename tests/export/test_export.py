"""Guards: exported graphs give what the model gives, to 1e-5, for every kind of model, on batch sizes and lengths that
they were not traced with; they run without this package; a graph that differs, or a fault, leaves nothing behind.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps
from tiny_backbones import write_text_backbone, write_timm_backbone
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_inputs, build_tiny_model

from pemoe.common.fingerprints import hash_file
from pemoe.export import ExportError, export_model, graphs, load_for_export, measures, staged_output
from pemoe.export.graphs import quantize, write_graph
from pemoe.export.measures import check_parity, measure_recall, run_alone
from pemoe.export.preprocessing import check_preprocessing
from pemoe.export.run import Encoder, to_8_bits
from pemoe.export.sides import SIDES, ImageSide, TextSide
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.modeling_pemoe.modeling_pemoe import fuse_images, fuse_text
from pemoe.modeling_pemoe.pictures_pemoe import read_picture

KINDS = {
    "experts": {},
    "unified": {"platforms": ["all"]},
    "masked": {"masked_platforms": ["ground"]},
    "uniform": {"gate": "uniform"},
    "eager": {"attn_implementation": "eager"},
}
SETTINGS = ("preprocessing.json", "tokenizer.json")


@pytest.fixture(scope="module", autouse=True)
def few_rounds():
    """What is timed is not looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "ROUNDS", 3)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A tiny model, exported as ONNX with int8, and what was measured."""
    output = tmp_path_factory.mktemp("onnx") / "out"
    with staged_output(output) as staging:
        rows = build_split(split="test")
        results = export_model(build_tiny_model(), build_processor(), staging, int8=True, rows=rows)
    return output, results


@pytest.mark.parametrize(
    "kind", [kind if kind == "masked" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_torch_graphs_equal_every_kind_of_model(kind: str, tmp_path: Path) -> None:
    model = build_tiny_model(**KINDS[kind])
    for name, side_class in SIDES.items():
        side = side_class(model)
        write_graph(side, tmp_path / f"{name}.pt2")
        assert check_parity(side, tmp_path / f"{name}.pt2") <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unified", "masked"])
def test_onnx_text_graphs_equal_models_whose_gate_differs(kind: str, tmp_path: Path) -> None:
    side = TextSide(build_tiny_model(**KINDS[kind]))
    write_graph(side, tmp_path / "text.onnx")
    assert check_parity(side, tmp_path / "text.onnx") <= 1e-5


def test_inner_product_of_both_graphs_is_the_models_score(exported: tuple[Path, dict]) -> None:
    model, folder = build_tiny_model(), exported[0]
    inputs = build_tiny_inputs(7)  # a batch that nothing was traced or checked with
    text, image = (onnxruntime.InferenceSession(folder / f"{side}.onnx") for side in ("text", "image"))
    named = {name: tensor.numpy() for name, tensor in inputs.items()}
    query, weights = text.run(None, {name: named[name] for name in ("input_ids", "attention_mask")})
    (gallery,) = image.run(None, {"pixel_values": named["pixel_values"]})
    with torch.no_grad():
        output = model(**inputs)
    np.testing.assert_allclose(query, fuse_text(output), atol=1e-5)
    np.testing.assert_allclose(gallery, fuse_images(output), atol=1e-5)
    np.testing.assert_allclose(weights, output.gate_weights, atol=1e-5)
    scores = output.logits_per_text / model.logit_scale.clamp(max=np.log(100)).exp().item()
    np.testing.assert_allclose(query @ gallery.T, scores.detach(), atol=1e-5)


def test_the_description_says_what_the_files_are(exported: tuple[Path, dict]) -> None:
    folder, results = exported
    said = json.loads((folder / "export.json").read_text())
    names = {path.name for path in folder.iterdir()}
    graphs_written = {f"{side}{precision}.onnx" for side in SIDES for precision in ("", ".int8")}
    assert names == {*said["files"], "export.json"} == {*graphs_written, *("export.json", "run.py"), *SETTINGS}
    for name, file in said["files"].items():
        assert file == {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)}
    assert said["measured"] == json.loads(json.dumps(results))
    for side, described in said["graphs"].items():
        session = onnxruntime.InferenceSession(folder / f"{side}.onnx")
        for kind, own in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            assert [(one["name"], one["shape"]) for one in described[kind]] == [(one.name, one.shape) for one in own]


def test_nothing_exported_names_a_path_of_this_machine(exported: tuple[Path, dict], tmp_path: Path) -> None:
    write_graph(ImageSide(build_tiny_model()), tmp_path / "image.pt2")
    here = [str(Path(torch.__file__).parent).encode(), str(Path(graphs.__file__).parent).encode()]
    for path in (*exported[0].iterdir(), tmp_path / "image.pt2"):
        assert not any(one in path.read_bytes() for one in here), path.name


def test_int8_is_smaller_and_its_loss_is_measured(exported: tuple[Path, dict]) -> None:
    results = exported[1]
    for side in SIDES:
        assert results["bytes"][side]["int8"] < results["bytes"][side]["fp32"] / 2
    recall = results["recall"]
    for name in ("fp32", "int8"):
        for figure, (loss, low, high) in recall["loss"][name].items():
            assert loss == pytest.approx(recall["pytorch"][figure] - recall[name][figure])
            assert low <= loss <= high


def test_recall_of_graphs_that_answer_wrongly_is_seen(exported: tuple[Path, dict]) -> None:
    class Wrong(Encoder):
        def encode_images(self, pictures: list[Image.Image]) -> np.ndarray:
            return -super().encode_images(pictures)

    encoders = {"right": Encoder(exported[0]), "wrong": Wrong(exported[0])}
    recall = measure_recall(build_tiny_model(), build_processor(), build_split(split="test"), encoders)
    assert recall["right"]["recall_at_10"] == recall["pytorch"]["recall_at_10"]
    assert recall["wrong"] != recall["pytorch"]


@pytest.mark.slow
def test_torch_graphs_run_where_pemoe_transformers_and_timm_cannot_be_imported(tmp_path: Path) -> None:
    with staged_output(tmp_path / "out") as staging:
        results = export_model(build_tiny_model(), build_processor(), staging, "torch-export")
    assert results["peak_rss_mb"]["fp32"] > 10
    assert (tmp_path / "out" / "export.json").is_file() and results["recall"] is None


def test_a_folder_that_needs_a_blocked_package_is_refused(exported: tuple[Path, dict]) -> None:
    with pytest.raises(ExportError, match="does not run without onnxruntime"):
        run_alone(exported[0], "", ("onnxruntime",), Encoder(exported[0]))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "upright"])
def test_pictures_are_prepared_as_the_processor_does(mode: str, exported: tuple[Path, dict]) -> None:
    rng = np.random.default_rng(5)
    picture = Image.fromarray(rng.integers(0, 256, (90, 130, 3)).astype(np.uint8))
    ours = build_processor()(images=[picture.convert("RGB" if mode == "upright" else mode)])["pixel_values"].numpy()[0]
    if mode == "upright":  # a camera held sideways: what is stored is turned back by its EXIF orientation
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        turned.getexif()[0x0112] = 6
        assert np.array_equal(ImageOps.exif_transpose(turned), picture)
        picture = turned
    else:
        picture = picture.convert(mode)
    theirs = Encoder(exported[0]).prepare(picture)
    assert np.abs(ours - theirs).max() <= 1.01 / 255 / 0.26  # one grey level


WIDE = {
    "I;16": np.arange(0, 65536, 9, dtype=np.uint16),
    "I;16, dark": np.arange(0, 250, 3, dtype=np.uint16),
    "I": np.arange(0, 65536, 9, dtype=np.int32),
    "I, 8 bits": np.arange(0, 256, 3, dtype=np.int32),
    "F": np.linspace(0, 1, 200, dtype=np.float32),
    "F, 8 bits": np.linspace(0, 255, 200, dtype=np.float32),
}


@pytest.mark.parametrize("kind", WIDE)
def test_pictures_of_more_than_8_bits_are_brought_to_8_as_the_processor_does(kind: str) -> None:
    picture = Image.fromarray(np.tile(WIDE[kind], (3, 1)))
    assert picture.mode == kind.partition(",")[0]
    assert np.array_equal(np.asarray(to_8_bits(picture).convert("RGB")), np.asarray(read_picture(picture)))


def test_recall_is_measured_on_16_bit_rows(exported: tuple[Path, dict]) -> None:
    rows, buffer = build_split(split="test"), io.BytesIO()
    Image.fromarray(np.tile(WIDE["I;16"], (60, 1))).save(buffer, "PNG")
    deep = datasets.Dataset.from_list(
        [{**row, "image": {"bytes": buffer.getvalue(), "path": None}} for row in rows], features=rows.features
    )
    recall = measure_recall(build_tiny_model(), build_processor(), deep, {"fp32": Encoder(exported[0])})
    assert recall["fp32"]["n_queries"] == recall["pytorch"]["n_queries"] > 0


def test_pictures_and_texts_that_would_be_misread_are_refused(exported: tuple[Path, dict]) -> None:
    encoder = Encoder(exported[0])
    with pytest.raises(ValueError, match="mode I has values from 0 to 70000; convert it to 8 bits"):
        encoder.prepare(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))
    with pytest.raises(ValueError, match="empty"):
        encoder.encode_text(["roof", " "])


def test_a_processor_that_does_more_than_resize_is_refused(exported: tuple[Path, dict]) -> None:
    processor = build_processor()
    processor.image_processor.do_normalize = False
    with pytest.raises(ExportError, match="grey levels"):
        check_preprocessing(Encoder(exported[0]), build_tiny_model(), processor)
    other = build_processor()
    other.tokenizer.model_max_length = 5
    with pytest.raises(ExportError, match="other tokens"):
        check_preprocessing(Encoder(exported[0]), build_tiny_model(), other)


def test_a_graph_that_differs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_another(side: TextSide, path: Path, opset: int) -> None:
        with torch.no_grad():
            side.model.logit_scale += 1  # changes no output
            side.model.gate.output.bias[0] += 1e-3
        write_graph(side, path, opset)
        with torch.no_grad():
            side.model.gate.output.bias[0] -= 1e-3

    monkeypatch.setattr("pemoe.export.exporter.write_graph", write_another)
    with (
        pytest.raises(ExportError, match=r"text.pt2: query differs by .* from PyTorch on shape \(1, 2\)"),
        staged_output(tmp_path / "out") as staging,
    ):
        export_model(build_tiny_model(), build_processor(), staging, "torch-export")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("graph_format", ["onnx", "torch-export"])
def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph_format: str
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ExportError, match="MB are free; make room"), staged_output(tmp_path / "out") as staging:
        export_model(build_tiny_model(), build_processor(), staging, graph_format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_weights_may_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EXTERNAL_DATA_BYTES", 1000)
    side = TextSide(build_tiny_model())
    write_graph(side, tmp_path / "text.onnx")
    assert (tmp_path / "text.onnx.data").stat().st_size > 100_000
    assert check_parity(side, tmp_path / "text.onnx") <= 1e-5
    assert quantize(tmp_path / "text.onnx").is_file()
    example = {name: tensor.numpy() for name, tensor in side.example(2).items()}
    assert onnxruntime.InferenceSession(tmp_path / "text.int8.onnx").run(None, example)[0].shape == (2, 96)


def test_what_was_there_stays_until_the_export_is_whole(tmp_path: Path) -> None:
    old = tmp_path / "out"
    old.mkdir()
    (old / "metrics.json").write_text("{}")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "left by a kill").touch()
    with pytest.raises(RuntimeError), staged_output(old, overwrite=True) as staging:
        assert list(staging.iterdir()) == []
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (old / "metrics.json").is_file()
    with staged_output(old, overwrite=True) as staging:
        (staging / "export.json").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "export.json"]


def test_options_and_models_that_cannot_be_exported_are_refused(tmp_path: Path, monkeypatch) -> None:
    model, processor = build_tiny_model(), build_processor()
    with pytest.raises(ExportError, match=r"--int8 .*--onnx"):
        export_model(model, processor, tmp_path, "torch-export", int8=True)
    with pytest.raises(ExportError, match="--data"):
        export_model(model, processor, tmp_path, int8=True)
    with pytest.raises(ExportError, match="--opset"):
        export_model(model, processor, tmp_path, "torch-export", opset=20)
    with pytest.raises(ExportError, match="no test captions"):
        rows = build_split(split="test").map(lambda row: {"captions": []})
        export_model(model, processor, tmp_path, int8=True, rows=rows)
    with pytest.raises(ExportError, match="bfloat16"):
        export_model(build_tiny_model().to(torch.bfloat16), processor, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r'onnxscript: run `pip install "pemoe\[export\]"`'):
        export_model(model, processor, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bf16_checkpoint_is_read_in_fp32_with_exact_rotary_tables(tmp_path: Path) -> None:
    model = build_tiny_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    build_processor().save_pretrained(tmp_path)
    loaded, _ = load_for_export(str(tmp_path))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    fresh = build_tiny_model()
    for (name, ours), theirs in zip(loaded.named_buffers(), fresh.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.slow
def test_an_experts_only_checkpoint_is_exported_with_its_backbones(tmp_path: Path) -> None:
    text, vision = write_text_backbone(tmp_path / "text"), write_timm_backbone(tmp_path / "vision")
    model = PeMoEModel.from_backbones(str(text), str(vision), image_size=56, max_text_tokens=64, gate_hidden_dim=16)
    model.save_pretrained(tmp_path / "model", experts_only=True)
    build_processor().save_pretrained(tmp_path / "model")
    loaded, _ = load_for_export(str(tmp_path / "model"))
    for name, side_class in SIDES.items():
        write_graph(side_class(loaded), tmp_path / f"{name}.pt2")
        assert check_parity(side_class(model), tmp_path / f"{name}.pt2") <= 1e-5


def test_the_opset_asked_for_is_written(tmp_path: Path) -> None:
    side = TextSide(build_tiny_model(platforms=["all"]))
    write_graph(side, tmp_path / "text.onnx", opset=20)
    assert [one.version for one in onnx.load(tmp_path / "text.onnx").opset_import] == [20]
    assert check_parity(side, tmp_path / "text.onnx") <= 1e-5
