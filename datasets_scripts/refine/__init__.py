"""Refining captions: by rules, or by a language model whose every answer is checked."""

from pemoe.datasets_scripts.refine.llm.backends import EndpointBackend, LocalBackend
from pemoe.datasets_scripts.refine.llm.budget import BudgetError
from pemoe.datasets_scripts.refine.llm.refiner import Estimate, LLMRefiner
from pemoe.datasets_scripts.refine.outcome import Refinement, Refiner, RefineRequest, Rejection
from pemoe.datasets_scripts.refine.page import write_refine_report
from pemoe.datasets_scripts.refine.report import RefineReport
from pemoe.datasets_scripts.refine.rows import BatchRefiner, refine_dataset, refine_rows, row_requests
from pemoe.datasets_scripts.refine.rules import RuleRefiner

__all__ = [
    "BatchRefiner",
    "BudgetError",
    "EndpointBackend",
    "Estimate",
    "LLMRefiner",
    "LocalBackend",
    "RefineReport",
    "RefineRequest",
    "Refinement",
    "Refiner",
    "Rejection",
    "RuleRefiner",
    "refine_dataset",
    "refine_rows",
    "row_requests",
    "write_refine_report",
]
