"""transformers' own common model tests (`ModelTesterMixin`) on a small PE-MoE: what passes, what fails and why.

    pip download transformers==5.23.0 --no-deps --no-binary transformers && pip install parameterized
    python benchmarks/transformers_model_tests.py transformers-5.23.0.tar.gz --output runs/model_tests

The tests are read from the source archive for this run and left there. The archive holds neither the mixin's export
tests nor its generation tests: the first are not run, the others are for models that generate.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tarfile
import tempfile
import time
import types
import unittest
from pathlib import Path

import torch

from pemoe.common.runs import check_output, prepare_output, write_metrics
from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel

LEFT_OUT = {"tests.exporters.test_export": "ExportTesterMixin", "tests.generation.test_utils": "GenerationTesterMixin"}


class Tester:
    """What the mixin asks of a model: a small configuration and inputs that fit it."""

    is_training = True
    batch_size = 3
    seq_length = 12
    num_hidden_layers = 2
    hidden_size = 32
    image_size = 56

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def get_config(self) -> PeMoEConfig:
        """The preset `tiny`, two experts."""
        return PeMoEConfig.preset("tiny", platforms=["satellite", "drone"])

    def prepare_config_and_inputs_for_common(self) -> tuple[PeMoEConfig, dict[str, torch.Tensor]]:
        """The configuration, and a batch of texts and pictures."""
        config = self.get_config()
        generator = torch.Generator().manual_seed(0)
        input_ids = torch.randint(3, 200, (self.batch_size, self.seq_length), generator=generator)
        pictures = torch.randn(self.batch_size, 3, self.image_size, self.image_size, generator=generator)
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "pixel_values": pictures}
        return config, inputs

    def prepare_config_and_inputs(self) -> tuple[PeMoEConfig, dict[str, torch.Tensor]]:
        """The same."""
        return self.prepare_config_and_inputs_for_common()


def load_mixin(archive: Path, folder: Path) -> type:
    """`ModelTesterMixin` of the archive, laid out in `folder`; the parts that it lacks are empty classes."""
    with tarfile.open(archive) as packed:
        inside = [one for one in packed.getmembers() if one.isfile() and one.name.split("/")[1:2] == ["tests"]]
        packed.extractall(folder, inside, filter="data")
    (root,) = folder.iterdir()
    for name, mixin in LEFT_OUT.items():
        for package in (name.rpartition(".")[0], name):
            sys.modules[package] = types.ModuleType(package)
        setattr(sys.modules[name], mixin, type(mixin, (), {}))
    sys.path.insert(0, str(root))
    return importlib.import_module("tests.test_modeling_common").ModelTesterMixin


def build_case(mixin: type) -> type[unittest.TestCase]:
    """The mixin's tests for `PeMoEModel`."""

    def set_up(self: unittest.TestCase) -> None:
        self.model_tester = Tester(self)

    fields = {"all_model_classes": (PeMoEModel,), "_is_composite": True, "setUp": set_up}
    return type("PeMoEModelTest", (mixin, unittest.TestCase), fields)


class Outcomes(unittest.TestResult):
    """Every test's outcome, and the line that gives its reason."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, tuple[str, str]] = {}

    def _note(self, test: unittest.TestCase, outcome: str, reason: object) -> None:
        name = test.id().rpartition(".")[2]
        if name not in self.rows or self.rows[name][0] == "passed":
            lines = str(reason).strip().splitlines()
            self.rows[name] = (outcome, lines[0][:200] if lines else "")

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """Passed."""
        self._note(test, "passed", "")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        """Does not apply."""
        self._note(test, "not applicable", reason)

    def addFailure(self, test: unittest.TestCase, err: tuple) -> None:  # noqa: N802
        """Failed, or stopped by an error."""
        self._note(test, "failed", f"{err[0].__name__}: {err[1]}")

    addError = addFailure  # noqa: N815

    def addSubTest(self, test: unittest.TestCase, subtest: object, err: tuple | None) -> None:  # noqa: N802
        """A part of a test; only a failed one counts."""
        if err is not None:
            self.addFailure(test, err)


def main() -> None:
    """Run the tests, write `metrics.json`, print what did not pass."""
    parser = argparse.ArgumentParser(description="transformers' common model tests on PE-MoE.")
    parser.add_argument("archive", type=Path, help="source archive of the installed transformers version")
    parser.add_argument("--output", type=Path, default=Path("runs/model_tests"))
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--only", help="tests whose name holds this")
    options = parser.parse_args()
    started_s = time.monotonic()
    check_output(options.output, options.overwrite)
    with tempfile.TemporaryDirectory() as folder:
        case = build_case(load_mixin(options.archive, Path(folder)))
        names = [name for name in unittest.TestLoader().getTestCaseNames(case) if (options.only or "") in name]
        outcomes = Outcomes()
        unittest.TestSuite(case(name) for name in names).run(outcomes)
    counts = {
        kind: sum(row[0] == kind for row in outcomes.rows.values()) for kind in ("passed", "failed", "not applicable")
    }
    rows = {name: {"outcome": outcome, "reason": reason} for name, (outcome, reason) in sorted(outcomes.rows.items())}
    prepare_output(options.output, options.overwrite)
    command = f"python benchmarks/transformers_model_tests.py {options.archive.name}"
    write_metrics(options.output, command, None, started_s, {"counts": counts, "tests": rows})
    for name, row in rows.items():
        if row["outcome"] != "passed":
            print(f"{row['outcome']:15} {name}: {row['reason']}")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
