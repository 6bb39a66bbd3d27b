"""Guards the global batch: two gloo processes under DDP equal one on the joined batch, in loss and gradient, also
with unequal numbers of rows, and the first goes first where rows are prepared."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys

import pytest
import torch

from pemoe.trainers.parallel.distributed import gather_with_grad, gather_without_grad, rank, world_size

SCRIPT = """
import json, os, sys, time
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pemoe.modeling_pemoe.losses_pemoe import InfoNCELoss
from pemoe.trainers.parallel.distributed import (
    first_process_first, gather_with_grad, gather_without_grad, rank, world_size
)

PLACES = torch.tensor([4, 8, 15, 4, 8, 8, 16, 4])  # rows 0-3 and 4-7: places 4 and 8 lie on both ranks


class Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.text = torch.nn.Parameter(torch.randn(6, 5, generator=generator))
        self.image = torch.nn.Parameter(torch.randn(7, 5, generator=generator))
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, text, image, place_id, form):
        query, gallery = F.normalize(text @ self.text, dim=1), F.normalize(image @ self.image, dim=1)
        query, gallery = gather_with_grad(query), gather_with_grad(gallery)
        return InfoNCELoss(form)(query, gallery, gather_without_grad(place_id), self.logit_scale)["loss"]


def result(form, on_first=4):
    generator = torch.Generator().manual_seed(1)
    text, image = torch.randn(8, 6, generator=generator), torch.randn(8, 7, generator=generator)
    cuts = [0, on_first, 8] if world_size() > 1 else [0, 8]
    mine = slice(cuts[rank()], cuts[rank() + 1])
    towers = Towers()
    model = torch.nn.parallel.DistributedDataParallel(towers) if world_size() > 1 else towers
    loss = model(text[mine], image[mine], PLACES[mine], form)
    loss.backward()
    grads = {name: parameter.grad.flatten().tolist() for name, parameter in towers.named_parameters()}
    return {"loss": loss.item(), "world_size": world_size(), **grads}


def main(folder, store=None, index=None):
    if store:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(index), world_size=2)
    with first_process_first():
        if rank() == 0:
            time.sleep(0.5)
            open(f"{folder}/prepared_{world_size()}", "w").close()
        assert os.path.exists(f"{folder}/prepared_{world_size()}"), "the first process was not waited for"
    results = {form: result(form) for form in ("mask", "multi_positive")}
    results["unequal"] = result("mask", on_first=5)
    with open(f"{folder}/result_{world_size()}_{rank()}.json", "w") as file:
        json.dump(results, file)
    if store:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict]:
    """What one process and each of two processes found, by file name."""
    folder = tmp_path_factory.mktemp("gloo")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    store = str(folder / "store")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder), store, index],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in "01"
    ]
    runpy.run_path(str(script), run_name="one_process")["main"](folder)
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("result_*.json")}


@pytest.mark.parametrize("form", ["mask", "multi_positive", "unequal"])
@pytest.mark.parametrize("process", [0, 1])
def test_two_processes_equal_one(results, form, process):
    one, two = results["result_1_0"][form], results[f"result_2_{process}"][form]
    assert (one["world_size"], two["world_size"]) == (1, 2)
    for name in ("loss", "text", "image", "logit_scale"):
        torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(one[name]), rtol=1e-5, atol=1e-6)
    assert abs(one["logit_scale"][0]) > 1e-3 and torch.tensor(one["image"]).norm() > 1e-2


def test_one_process_gathers_nothing():
    tensor = torch.ones(2, 3, requires_grad=True)
    assert gather_with_grad(tensor) is tensor
    assert not gather_without_grad(tensor).requires_grad
    assert (rank(), world_size()) == (0, 1)
