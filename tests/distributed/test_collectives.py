"""Texts of all ranks, world size 3: of unequal length, empty, beyond ASCII."""

import pytest
import torch
import torch.distributed as dist

from cpl_ray.collectives import Collectives
from tests.distributed.launch import run_workers

pytestmark = pytest.mark.distributed
TEXTS = ["", "Knoten 10.77.0.3: schreibgeschützt", "x"]


def exchange() -> list[list[str]]:
    comm = Collectives(torch.device("cpu"))
    return [comm.texts(TEXTS[dist.get_rank()]), comm.texts("")]


def test_each_rank_gets_the_texts_of_all_in_their_order() -> None:
    assert run_workers(exchange, 3) == [[TEXTS, ["", "", ""]]] * 3


def test_a_single_process_gets_its_own() -> None:
    assert Collectives(torch.device("cpu")).texts("só") == ["só"]
