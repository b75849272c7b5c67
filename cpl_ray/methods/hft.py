"""Half Fine-Tuning: half of each block's matrices are frozen for the whole run."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from cpl_ray.errors import LayoutError
from cpl_ray.layout import Layout, block_of, module_of
from cpl_ray.methods.base import Chunk, Method
from cpl_ray.methods.parameters import Parameters

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def frozen_parameters(names: Iterable[str], seed: int) -> set[str]:
    """Choose by seed what is frozen: in each block half of the modules of each category (Hui et al. 2024).

    Categories are attention (q, k, v, o), feed-forward (gate, up, down), norms, and whatever else a block has, as in
    models with other names (GPT-2: c_attn, c_fc and two c_proj). Of an odd number, such as the three of feed-forward,
    one more than half is frozen in half of the blocks and one less in the others. A bias goes with its weight. What
    lies in no numbered block (embeddings, final norm, head) is never frozen.

    Args:
        names: of all trainable parameters.
        seed: of the run.
    """
    modules: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # category, block -> modules
    parameters: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if (place := block_of(name)) is None:
            continue
        stack, number = place
        module = module_of(name)
        parameters[module].append(name)
        in_block = modules[f"{stack} {_category(module)}"][f"{stack}.{number}"]
        if module not in in_block:
            in_block.append(module)
    frozen: set[str] = set()
    for category, blocks in modules.items():
        odd = [block for block, members in blocks.items() if len(members) % 2]
        more = set(_shuffled(odd, seed, category)[: len(odd) // 2])
        for block, members in blocks.items():
            count = len(members) // 2 + (block in more)
            for module in _shuffled(members, seed, category)[:count]:
                frozen.update(parameters[module])
    return frozen


class HFT(Method):
    """theta <- theta - lr * u for the parameters chosen, nothing for the frozen half: no decay either.

    Hui et al. 2024 (arXiv 2404.18466), category-level selection. Clipping sees the gradient of all parameters.

    Args:
        seed: of the run; fixes the choice.
    """

    needs_layout = True
    frozen_share: float
    """Share of all trainable elements that is frozen; known once bound."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def bind(self, layout: Layout) -> None:
        """Choose what is frozen.

        Raises:
            LayoutError: no parameter lies in a numbered block.
        """
        self._parameters = Parameters(layout)
        chosen = frozen_parameters(self._parameters.names, self._seed)
        if not chosen:
            raise LayoutError(
                "train.rule=hft freezes half of each transformer block, and no parameter has a block's number in its "
                f"name, as in model.layers.0.mlp.up_proj.weight; the first is {self._parameters.names[0]}"
            )
        self._frozen = torch.tensor([name in chosen for name in self._parameters.names])
        self.frozen_share = float(self._parameters.sizes[self._frozen].sum() / self._parameters.sizes.sum())

    def update(self, update: Tensor, chunk: Chunk) -> Tensor:
        """Return the update, zero for frozen parameters."""
        frozen = self._parameters.spread(self._frozen.to(update.device), chunk.flat.index, chunk.part)
        chunk.stats.add(frozen=frozen.sum())
        return update * ~frozen


def _category(module: str) -> str:
    last = module.rpartition(".")[2]
    if last in ATTENTION:
        return "attention"
    if last in FEED_FORWARD:
        return "feed-forward"
    return "norm" if "norm" in last or last.startswith("ln") else "other"


def _shuffled(names: list[str], seed: int, purpose: str) -> list[str]:
    """Return the names in an order that depends on nothing but seed, purpose and the names."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}\n{purpose}\n{name}".encode()).digest())
