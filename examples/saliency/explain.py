"""What in an image makes a network believe what it believes: saliency and integrated gradients, from a SavedModel.

The model has a signature that computes its gradients (`save.py` made it): stock TensorFlow ops. This program knows
nothing of tf_symgrad, as TensorFlow Serving does not, and a program in C.

    python explain.py [--steps N] [--out DIR]

Integrated gradients (Sundararajan, Taly and Yan, 2017) are complete: they add up to the difference of the scores of the
image and of a black one, which is checked here.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib
import numpy as np
import tensorflow as tf
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def score_and_gradient(model: Any, images: Any, digits: Any) -> tuple[Any, Any]:
    """The score of one digit for each image, and its gradient by the image."""
    result = model.signatures["gradients"](images=tf.constant(images), d_logits=tf.one_hot(digits, 10))
    return np.take_along_axis(result["logits"].numpy(), digits[:, None], 1)[:, 0], result["gradient_images"].numpy()


def integrated_gradients(model: Any, image: Any, digit: int, steps: int) -> Any:
    """The mean of the gradients on the way from black to the image, by the midpoint rule, times the image."""
    total = np.zeros_like(image)
    parts = np.array_split((np.arange(steps) + 0.5) / steps, max(1, steps // 50))
    for part in tqdm(parts, desc=f"integrating for a {digit}", unit="batch", leave=False):
        on_the_way = (part[:, None, None] * image).astype(np.float32)
        total += score_and_gradient(model, on_the_way, np.full(len(part), digit))[1].sum(0)
    return image * total / steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("build") / "saliency")
    options = parser.parse_args()
    model = tf.saved_model.load(options.out / "model")
    data = np.load(options.out / "digits.npz")
    images = data["images"]
    digits = np.argmax(model.signatures["serving_default"](images=tf.constant(images))["logits"], 1)

    scores, saliency = score_and_gradient(model, images, digits)
    of_black, _ = score_and_gradient(model, np.zeros_like(images), digits)
    integrated = np.stack(
        [integrated_gradients(model, image, digit, options.steps) for image, digit in zip(images, digits, strict=True)]
    )
    error = np.max(np.abs(integrated.sum((1, 2)) - (scores - of_black)) / np.abs(scores - of_black))
    print(f"integrated gradients add up to the difference of the scores, to {error:.1e}")
    print(f"tf_symgrad was imported: {'tf_symgrad' in sys.modules}")

    figure, rows = plt.subplots(3, len(images), figsize=(1.6 * len(images), 5))
    kinds = [("image", images, "gray"), ("saliency", np.abs(saliency), "hot"), ("integrated", integrated, "RdBu")]
    for row, (name, pictures, colors) in zip(rows, kinds, strict=True):
        for axes, picture in zip(row, pictures, strict=True):
            limit = np.max(np.abs(picture))
            axes.imshow(picture, cmap=colors, vmin=-limit if colors == "RdBu" else 0, vmax=limit)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    for axes, digit in zip(rows[0], digits, strict=True):
        axes.set_title(f"believed a {digit}", fontsize=9)
    figure.savefig(options.out / "saliency.png", dpi=150, bbox_inches="tight")
    print(f"picture: {options.out / 'saliency.png'}")


if __name__ == "__main__":
    main()
