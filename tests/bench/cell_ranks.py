"""``python -m tests.bench.cell_ranks RUN``: where a search of omniglot_cells stands among the enumerated cells.

Prints the shares of ops on each edge before adaptation, the rank of the cell of the strongest ops, and Kendall's tau_b
between the product of a cell's shares and its accuracy in results/omniglot_cells. Then the rank that the best of k
cells drawn at random is expected to have.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from math import comb
from pathlib import Path

from scipy.stats import kendalltau, rankdata

import pipeline
from pipeline.nets.search_space import ARCH

OPS = ("conv3", "sep_conv5", "max_pool3", "skip")
RESULTS = Path("results/omniglot_cells")


def main(run: str) -> None:
    cells = list(product(OPS, repeat=2))
    truth = [
        sum(scores := json.loads((RESULTS / f"{a}_{b}.json").read_text())["scores"]) / len(scores) for a, b in cells
    ]
    ranks = [int(rank) for rank in rankdata([-one for one in truth], "min")]
    edges = [
        logits.softmax(-1).tolist() for logits in pipeline.load(run, normalisation="transductive").theta[ARCH].values()
    ]
    for number, shares in enumerate(edges):
        print(f"edge{number}", {op: round(share, 3) for op, share in zip(OPS, shares, strict=True)})
    shares = [edges[0][OPS.index(a)] * edges[1][OPS.index(b)] for a, b in cells]
    strongest = max(range(len(cells)), key=shares.__getitem__)
    print(f"cell {'_'.join(cells[strongest])}, rank {ranks[strongest]} of {len(cells)}")
    print(f"tau_b {kendalltau(shares, truth, variant='b').statistic:.2f}")
    for drawn in (2, 4, 7):
        expected = sum(
            sorted(ranks)[best] * comb(len(cells) - best - 1, drawn - 1) / comb(len(cells), drawn)
            for best in range(len(cells) - drawn + 1)
        )
        print(f"the best of {drawn} random cells: expected rank {expected:.1f}")


if __name__ == "__main__":
    main(sys.argv[1])
