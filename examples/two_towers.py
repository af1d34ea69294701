"""Trains a two-tower recommender with a table of a million items, of which a step touches a few hundred rows.

A user is the mean of the items that they looked at; the next item should be closest to that, among those of the batch.
The gradient of a table of a million rows stays sparse: `sparse=True` returns the rows that the batch looked up as
`tf.IndexedSlices`, and nothing as large as the table is ever made.

    python two_towers.py [--items N] [--steps N] [--out FILE]

The data are made up: items belong to groups, and users stay in theirs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import tf_symgrad

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GROUPS, WIDTH, BATCH, HISTORY, RATE = 200, 16, 256, 5, 20.0


class Recommender(tf.Module):
    def __init__(self, items: int) -> None:
        super().__init__()
        self.table = tf.Variable(tf.random.stateless_normal([items, WIDTH], (3, 0)), name="table")
        self.tower = tf.Variable(tf.eye(WIDTH), name="tower")

    def loss(self, histories: Any, nexts: Any) -> Any:
        """Of users by their histories, and of what they looked at next, which should be found among all of these."""
        users = tf.reduce_mean(tf.gather(self.table, histories), 1) @ self.tower
        items = tf.gather(self.table, nexts)
        cosines = tf.matmul(tf.linalg.l2_normalize(users, 1), tf.linalg.l2_normalize(items, 1), transpose_b=True)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(BATCH), 8.0 * cosines))


def batch(chance: np.random.Generator, items: int) -> tuple[Any, Any, Any]:
    """Histories, what comes next, and the groups of some users. Item i is of group i mod GROUPS; some are popular."""
    groups = chance.integers(GROUPS, size=BATCH)
    ranks = np.exp(chance.uniform(0, np.log(items // GROUPS), (BATCH, HISTORY + 1))).astype(np.int64) - 1
    looked_at = ranks * GROUPS + groups[:, None]
    return looked_at[:, :-1], looked_at[:, -1], groups


def recall(model: Recommender, chance: np.random.Generator, items: int) -> float:
    """How often the best of the most popular items is of the user's group; by chance 1 of GROUPS."""
    histories, _, groups = batch(chance, items)
    users = tf.linalg.l2_normalize(tf.reduce_mean(tf.gather(model.table, histories), 1) @ model.tower, 1)
    popular = tf.linalg.l2_normalize(model.table[: 10 * GROUPS], 1)
    return float(np.mean(np.argmax(tf.matmul(users, popular, transpose_b=True), 1) % GROUPS == groups))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("build") / "two_towers.png")
    options = parser.parse_args()
    model = Recommender(options.items)
    loss = tf.function(model.loss).get_concrete_function(
        tf.TensorSpec([BATCH, HISTORY], tf.int64), tf.TensorSpec([BATCH], tf.int64)
    )

    @tf.function
    def step(histories: Any, nexts: Any) -> Any:
        of_table, of_tower = tf_symgrad.symbolic_gradient(
            [histories, nexts],
            f=loss,
            wrt=[False, False],
            variables=[model.table, model.tower],
            sparse=True,
        )
        model.table.scatter_sub(tf.IndexedSlices(RATE * of_table.values, of_table.indices))
        model.tower.assign_sub(0.1 * of_tower)
        return tf.shape(of_table.values)[0]

    chance = np.random.default_rng(0)
    losses, recalls = [], []
    with tqdm(range(options.steps), desc="training", unit="step") as bar:
        for i in bar:
            histories, nexts, _ = batch(chance, options.items)
            rows = int(step(tf.constant(histories), tf.constant(nexts)))
            if i % 20 == 19:
                losses.append(float(loss(tf.constant(histories), tf.constant(nexts))))
                recalls.append(recall(model, chance, options.items))
                bar.set_postfix(loss=f"{losses[-1]:.2f}", recall=f"{recalls[-1]:.1%}", refresh=False)
    print(f"rows in a step's gradient: {rows:,} of {options.items:,}")
    print(f"recall: {recalls[-1]:.1%}, by chance {1 / GROUPS:.1%}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    steps = 20 * np.arange(1, len(losses) + 1)
    left.plot(steps, losses)
    left.set(xlabel="step", title="loss")
    right.plot(steps, recalls)
    right.set(xlabel="step", title="recall")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150, bbox_inches="tight")
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
