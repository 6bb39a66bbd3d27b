"""Guards: the outcome of transformers' common tests is told as it is: what fails is a failure with its reason, what
is skipped is no pass, and the inputs they are given run the real model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transformers_model_tests import PACKAGE, TinyModelTester, build_test_case, run_tests

from pemoe.modeling_pemoe import PeMoEModel

COMMON = """
import unittest
from .exporters.test_export import ExportTesterMixin
from .generation.test_utils import GenerationTesterMixin


def set_config_for_less_flaky_test(config):
    config.layer_norm_eps = 1.0


class ModelTesterMixin(ExportTesterMixin):
    def test_inputs(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        set_config_for_less_flaky_test(config)
        for model_class in self.all_model_classes:
            assert model_class(config)(**inputs, output_hidden_states=True).loss.isfinite()

    def test_wrong(self):
        self.assertEqual(1, 2)

    def test_wrong_in_part(self):
        with self.subTest("part"):
            raise KeyError("part")

    def test_left_out(self):
        self.skipTest("no accelerator")

    def test_hidden_states_output(self):
        raise AssertionError("must not run")
"""


@pytest.fixture
def outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, list[str]]:
    (tmp_path / "test_modeling_common.py").write_text(COMMON)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    case, missing = build_test_case(tmp_path)
    return run_tests(case), missing


def test_each_test_is_told_once_with_its_reason(outcome: tuple[dict, list[str]]) -> None:
    found, missing = outcome
    assert missing == ["ExportTesterMixin", "GenerationTesterMixin"]
    assert found["passed"] == ["test_inputs"]
    assert found["failed"] == {"test_wrong": "AssertionError: 1 != 2", "test_wrong_in_part": "KeyError: 'part'"}
    assert set(found["not_applicable"]) == {"test_left_out", "test_hidden_states_output"}
    assert found["not_applicable"]["test_left_out"] == "no accelerator"


def test_the_refusal_is_back_afterwards(outcome: tuple[dict, list[str]]) -> None:
    config, inputs = TinyModelTester().prepare_config_and_inputs_for_common()
    with pytest.raises(ValueError, match="output_hidden_states is not offered"):
        PeMoEModel(config)(**inputs, output_hidden_states=True)
    assert PACKAGE in sys.modules
