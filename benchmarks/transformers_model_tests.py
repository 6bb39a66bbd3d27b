"""transformers' own common model tests (`ModelTesterMixin`) on a tiny PE-MoE: passed, failed and why, not applicable.

The tests are read from a folder, never kept: a checkout of transformers at the installed version, or its source
distribution, which leaves out the tests of generation and of the exporters (the output says so). PE-MoE refuses
`output_attentions` and `output_hidden_states`; here the request is dropped, so that the rest of each test runs.

Example: pip download --no-deps --no-binary :all: transformers==5.23.0; tar xzf transformers-*.tar.gz
         python benchmarks/transformers_model_tests.py --transformers-tests transformers-5.23.0/tests
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import types
import unittest
from pathlib import Path
from unittest.mock import patch

import torch
import transformers

from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel

PACKAGE = "transformers_common_tests"
BASES = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}
NO_INNER_STATES = "attentions and hidden states are refused by name; the trunks themselves return them"
PER_EXPERT = "no single last_hidden_state: every expert has its own last layers"
NOT_APPLICABLE = {
    "test_attention_outputs": NO_INNER_STATES,
    "test_can_capture_specific_layers_hidden_states": NO_INNER_STATES,
    "test_capture_outputs_decorator": NO_INNER_STATES,
    "test_eager_matches_sdpa_inference": NO_INNER_STATES,
    "test_hidden_states_output": NO_INNER_STATES,
    "test_retain_grad_hidden_states_attentions": NO_INNER_STATES,
    "test_get_text_features_hidden_states": NO_INNER_STATES,
    "test_get_text_features_attentions": NO_INNER_STATES,
    "test_get_image_features_hidden_states": NO_INNER_STATES,
    "test_get_image_features_attentions": NO_INNER_STATES,
    "test_get_text_features_output_0": PER_EXPERT,
    "test_get_text_features_output_2": PER_EXPERT,
    "test_get_image_features_output_0": PER_EXPERT,
    "test_get_image_features_output_2": PER_EXPERT,
}  # by how a name begins


class TinyModelTester:
    """What the common tests ask a model's own tests for: a small configuration and inputs."""

    batch_size, seq_length, is_training = 3, 7, True
    num_hidden_layers, num_attention_heads, hidden_size = 2, 2, 32

    def get_config(self) -> PeMoEConfig:
        """The `tiny` preset, one layer fewer in both encoders."""
        tiny = PeMoEConfig.preset("tiny")
        text, vision = tiny.text_config, tiny.vision_config
        text.num_hidden_layers = vision["model_args"]["depth"] = self.num_hidden_layers
        return PeMoEConfig.preset("tiny", text_config=text.to_dict(), vision_config=vision, tail_dropout=0.0)

    def prepare_config_and_inputs_for_common(self) -> tuple[PeMoEConfig, dict[str, object]]:
        """A configuration and aligned text-image pairs, the last text padded; the loss is asked for."""
        config, generator = self.get_config(), torch.Generator().manual_seed(0)
        input_ids = torch.randint(3, 200, (self.batch_size, self.seq_length), generator=generator)
        attention_mask = torch.ones_like(input_ids)
        attention_mask[-1, -3:] = 0
        size = (self.batch_size, 3, config.image_size, config.image_size)
        inputs = {"input_ids": input_ids.masked_fill(attention_mask == 0, 1), "attention_mask": attention_mask}
        return config, {**inputs, "pixel_values": torch.randn(size, generator=generator), "return_loss": True}


def build_test_case(folder: Path) -> tuple[type[unittest.TestCase], list[str]]:
    """The common tests of a `tests` folder on PE-MoE, and the names of the base classes it lacks."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    missing = []
    for name, base in BASES.items():
        if not (folder / f"{name.replace('.', '/')}.py").exists():
            stand_in = types.ModuleType(f"{PACKAGE}.{name}")
            setattr(stand_in, base, type(base, (), {}))
            parent = types.ModuleType(f"{PACKAGE}.{name.partition('.')[0]}")
            sys.modules |= {parent.__name__: parent, stand_in.__name__: stand_in}
            missing.append(base)
    common = importlib.import_module(f"{PACKAGE}.test_modeling_common")
    less_flaky = common.set_config_for_less_flaky_test  # writes attributes, and `vision_config` is a dict
    common.set_config_for_less_flaky_test = lambda config: less_flaky(config.text_config)
    attributes = {
        "all_model_classes": (PeMoEModel,),
        "_is_composite": True,
        "setUp": lambda self: setattr(self, "model_tester", TinyModelTester()),
    }
    case = type("PeMoEModelTest", (common.ModelTesterMixin, unittest.TestCase), attributes)
    for name in unittest.TestLoader().getTestCaseNames(case):
        if reason := next((why for start, why in NOT_APPLICABLE.items() if name.startswith(start)), None):
            setattr(case, name, unittest.skip(reason)(lambda self: None))
    return case, missing


def run_tests(case: type[unittest.TestCase], only: str = "") -> dict[str, object]:
    """Run the tests whose name contains `only`; names of those that passed, name and reason of the others."""
    names = [name for name in unittest.TestLoader().getTestCaseNames(case) if only in name]
    result = unittest.TestResult()
    with patch.object(PeMoEModel, "_refuse_arguments", lambda self, others: None):
        unittest.TestSuite(case(name) for name in names).run(result)
    failed = {_name(test): _last_line(trace) for test, trace in result.failures + result.errors}
    skipped = {_name(test): reason for test, reason in result.skipped}
    passed = [name for name in names if name not in failed and name not in skipped]
    return {"passed": passed, "failed": failed, "not_applicable": skipped}


def _name(test: unittest.TestCase) -> str:
    return getattr(test, "test_case", test).id().rpartition(".")[2]


def _last_line(trace: str) -> str:
    lines = [line.strip() for line in trace.strip().splitlines()]
    return next(line for line in reversed(lines) if line)


def main() -> None:
    """Print the outcome as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers-tests", type=Path, required=True, metavar="DIR", help="its `tests` folder")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the tests whose name contains this")
    options = parser.parse_args()
    if not (options.transformers_tests / "test_modeling_common.py").exists():
        parser.error(f"--transformers-tests: no test_modeling_common.py in {options.transformers_tests}")
    case, missing = build_test_case(options.transformers_tests)
    outcome = run_tests(case, options.only)
    counts = {kind: len(tests) for kind, tests in outcome.items()}
    about = {"transformers": transformers.__version__, "counts": counts, "base_classes_left_out": missing}
    print(json.dumps({**about, **outcome}, indent=2))


if __name__ == "__main__":
    main()
