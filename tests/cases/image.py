"""Resampling and colours of images (csrc/rules/image.cc)."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.harness import Case, case, rand


def vector(*values: int) -> Any:
    return np.array(values, np.int32)


def resize(op: str, size: tuple[int, int], corners: bool, centers: bool, **options: Any) -> Case:
    args = dict(images=rand(2, 3, 4, 2), size=vector(*size), align_corners=corners, half_pixel_centers=centers)
    options.setdefault("tag", f"{size},align_corners={corners},half_pixel_centers={centers}")
    return case(op, args, **options)


def resize_grad(op: str, size: tuple[int, int], corners: bool, centers: bool, dtype: Any, **options: Any) -> Case:
    """The gradient op takes images of `size` in single precision back to the originals of a dtype."""
    args = dict(
        grads=rand(2, *size, 2),
        original_image=np.zeros((2, 3, 4, 2), dtype),
        align_corners=corners,
        half_pixel_centers=centers,
    )
    tag = f"{size},align_corners={corners},half_pixel_centers={centers},{np.dtype(dtype)}"
    return case(op, args, dtypes="f", tag=tag, **options)


def nearest_grad(size: tuple[int, int], corners: bool, centers: bool) -> Case:
    args = dict(grads=rand(2, *size, 2), size=vector(3, 4), align_corners=corners, half_pixel_centers=centers)
    tag = f"{size},align_corners={corners},half_pixel_centers={centers}"
    return case("ResizeNearestNeighborGrad", args, tag=tag, **GRAD_GRAD)


MODES = [((5, 3), False, False), ((5, 6), True, False), ((2, 7), False, True)]

GRAD_GRAD = dict(python=False, why="Python has no gradient of the gradient op")
BOXES = dict(boxes=rand(3, 4, lo=0.1, hi=0.9), box_ind=vector(0, 1, 0), crop_size=vector(3, 2))


def crop(**options: Any) -> Case:
    attrs = options.pop("attrs", {})
    return case("CropAndResize", dict(image=rand(2, 5, 4, 2), **BOXES, **attrs), **options)


# Boxes that are upright, and one that is not, sampled half-way between pixels.
WHERE = np.array([[1 / 8, 1 / 6, 5 / 8, 5 / 6], [3 / 8, 1 / 2, 7 / 8, 5 / 6], [5 / 8, 5 / 6, 1 / 8, 1 / 6]], np.float32)


def boxes(method: str = "bilinear", **options: Any) -> Case:
    def fn(image: Any, moved: Any) -> Any:
        args = {**BOXES, "boxes": WHERE + moved}
        return tf.raw_ops.CropAndResize(image=image, **args, method=method)

    return case(
        "CropAndResize", dict(image=rand(2, 5, 4, 2), moved=rand(3, 4, lo=-0.01, hi=0.01)), fn=fn, dtypes="f", **options
    )


def crop_grad(method: str) -> Case:
    """As many boxes' gradients added up in the images that they were cropped from."""
    args = {**BOXES, "grads": rand(3, 3, 2, 2), "image_size": vector(2, 5, 4, 2), "T": tf.float32, "method": method}
    del args["crop_size"]
    return case("CropAndResizeGradImage", args, wrt="grads", tag=method, **GRAD_GRAD)


def crop_grad_boxes() -> Case:
    def fn(grads: Any, moved: Any) -> Any:
        return tf.raw_ops.CropAndResizeGradImage(
            grads=grads, boxes=WHERE + moved, box_ind=BOXES["box_ind"], image_size=vector(2, 5, 4, 2), T=tf.float32
        )

    args = dict(grads=rand(3, 3, 2, 2), moved=rand(3, 4, lo=-0.01, hi=0.01))
    return case("CropAndResizeGradImage", args, fn=fn, dtypes="f", tag="boxes", **GRAD_GRAD)


def grad_boxes(grads: Any, image: Any, moved: Any) -> Any:
    """As in `boxes`, with a single sample between pixels, too, and one box that is partly outside."""
    where = np.array([WHERE[0], [3 / 8, 1 / 2, 7 / 8, 0.95], WHERE[2], [-0.2, 0.1, 0.85, 1.1]], np.float32)
    return tf.raw_ops.CropAndResizeGradBoxes(
        grads=grads, image=image, boxes=where + moved, box_ind=vector(0, 1, 0, 1), method="bilinear"
    )


def transform(interpolation: str, fill: str, count: int, version: int = 3) -> Case:
    """Images moved, turned and seen from the side, so that parts of them are out of sight."""
    transforms = [[0.9, 0.2, 0.4, -0.3, 1.1, 0.7, 0.02, 0.01], [1.2, 0, -1.3, 0.1, 0.8, -1.6, 0, -0.03]]
    args = dict(
        images=rand(2, 4, 5, 2),
        transforms=np.array(transforms[:count], np.float32),
        output_shape=vector(5, 4),
        interpolation=interpolation,
        fill_mode=fill,
        **(dict(fill_value=rand(dtype="f")) if version == 3 else {}),
    )
    return case(
        f"ImageProjectiveTransformV{version}",
        args,
        tag=f"{interpolation},{fill},{count}",
        dtypes="hbf",
        python=False,
        why="Python transforms the cotangent by the inverse, which is not the adjoint",
    )


def translate(kernel: str, antialias: bool, **options: Any) -> Case:
    args = dict(
        images=rand(1, 3, 4, 2),
        size=vector(4, 3),
        scale=np.array([1.3, 0.7], np.float32),
        translation=np.array([0.2, -0.3], np.float32),
        kernel_type=kernel,
        antialias=antialias,
    )
    return case("ScaleAndTranslate", args, tag=f"{kernel},antialias={antialias}", **options)


BEYOND: dict[str, Any] = dict(python=False, why="Python has no such gradient")


def pixels(*values: tuple[float, float, float]) -> Any:
    """An op at these pixels, whose channels are well apart, and a little moved."""
    return np.array(values)[np.newaxis, np.newaxis]


def colours(op: str, at: Any, dtypes: str, tag: str, **args: Any) -> Case:
    def fn(moved: Any, **rest: Any) -> Any:
        return getattr(tf.raw_ops, op)(images=moved + tf.cast(at, moved.dtype), **rest)

    moved = rand(1, 1, at.shape[2], 3, lo=-0.01, hi=0.01)
    return case(op, dict(moved=moved, **args), fn=fn, dtypes=dtypes, tag=tag, **BEYOND)


# Each order of the channels, and some that are not positive.
COLOURS = pixels(
    *[(0.2, 0.5, 0.9), (0.9, 0.2, 0.5), (0.5, 0.9, 0.2), (0.9, 0.5, 0.2), (0.2, 0.9, 0.5), (0.5, 0.2, 0.9)],
    *[(0.6, 0.5, 0.7), (0.9, -0.2, 0.3), (-0.2, -0.5, -0.9)],
)
HUES = pixels(
    *[(0.05, 0.5, 0.9), (0.25, 0.7, 0.8), (0.45, 0.2, 0.9), (0.6, 0.9, 0.3), (0.75, 0.4, 0.6), (0.95, 0.8, 0.7)],
    *[(-0.05, 0.5, 0.9), (1.07, 1.2, -0.9)],
)


def glimpse(version: str, offsets: list[list[float]], **options: Any) -> Case:
    args = dict(input=rand(2, 4, 5, 2), size=vector(3, 4), offsets=np.array(offsets, np.float32))
    return case(f"ExtractGlimpse{version}", {**args, "uniform_noise": False, "noise": "zero"} | options, **BEYOND)


SQUARES = np.array([[[0.1, 0.2, 0.8, 0.9], [0.3, 0.0, 0.6, 0.5]], [[0, 0, 0.5, 0.5], [0.2, 0.4, 1, 1]]], np.float32)


def translate_grad(kernel: str, antialias: bool) -> Case:
    args = dict(
        grads=rand(1, 4, 3, 2),
        original_image=np.zeros((1, 3, 4, 2), np.float32),
        scale=np.array([1.3, 0.7], np.float32),
        translation=np.array([0.2, -0.3], np.float32),
        kernel_type=kernel,
        antialias=antialias,
    )
    return case("ScaleAndTranslateGrad", args, tag=f"{kernel},antialias={antialias}", **GRAD_GRAD)


CASES = [
    *(resize(op, *mode) for op in ("ResizeNearestNeighbor", "ResizeBilinear") for mode in MODES),
    *(resize("ResizeBicubic", *mode, dtypes="fd") for mode in MODES),
    resize(
        "ResizeBicubic", *MODES[0], tag="narrow", dtypes="hb", python=False, why="Python has it for wide images alone"
    ),
    *(translate(kernel, antialias, dtypes="f") for kernel in ("lanczos3", "triangle") for antialias in (True, False)),
    translate("gaussian", True, dtypes="hbd", python=False, why="Python's gradient fails where images aren't float"),
    *(nearest_grad(*mode) for mode in MODES),
    *(resize_grad("ResizeBilinearGrad", *mode, np.float32) for mode in MODES),
    resize_grad("ResizeBilinearGrad", *MODES[0], np.float64),
    resize_grad(
        "ResizeBilinearGrad",
        *MODES[0],
        np.float16,
        fd=False,
        python=False,
        expected=lambda grads, dy: [tf.raw_ops.ResizeBilinear(images=dy, size=tf.shape(grads)[1:3])],
        why="its result is too coarse for differences, and Python's gradient is zero",
    ),
    *(resize_grad("ResizeBicubicGrad", *mode, np.float32, **GRAD_GRAD) for mode in MODES),
    resize_grad("ResizeBicubicGrad", *MODES[0], np.float64, **GRAD_GRAD),
    *(translate_grad(kernel, antialias) for kernel in ("lanczos3", "triangle") for antialias in (True, False)),
    crop(wrt="image", dtypes="hfd"),
    crop(wrt="image", dtypes="f", attrs=dict(method="nearest", extrapolation_value=1.0)),
    boxes(tag="boxes"),
    *(
        case(
            "CropAndResizeGradBoxes",
            dict(grads=rand(4, *size, 2), image=rand(2, 5, 4, 2), moved=rand(4, 4, lo=-0.01, hi=0.01)),
            fn=grad_boxes,
            dtypes="f",
            tag=f"{size}",
            **BEYOND,
        )
        for size in [(3, 2), (1, 2), (2, 1)]
    ),
    boxes(
        method="nearest",
        fd=False,
        tag="boxes,nearest",
        why="what is taken from the nearest pixels has the gradient of interpolation, by definition",
    ),
    *(crop_grad(method) for method in ("bilinear", "nearest")),
    crop_grad_boxes(),
    *(
        transform(interpolation, fill, count)
        for interpolation, fill, count in [
            ("NEAREST", "CONSTANT", 2),
            ("NEAREST", "WRAP", 1),
            ("BILINEAR", "CONSTANT", 2),
            ("BILINEAR", "CONSTANT", 1),
            ("BILINEAR", "REFLECT", 2),
            ("BILINEAR", "WRAP", 1),
            ("BILINEAR", "NEAREST", 2),
        ]
    ),
    transform("BILINEAR", "REFLECT", 1, version=2),
    transform("NEAREST", "CONSTANT", 2, version=2),
    *(
        case("ResizeArea", dict(images=rand(2, 3, 4, 2), size=vector(*size), align_corners=corners), **BEYOND)
        for size, corners in [((2, 3), False), ((5, 3), True), ((1, 6), False)]
    ),
    *(glimpse(version, [[0.6, 0.4], [-0.7, 0.9]]) for version in ("", "V2")),
    *(glimpse(version, [[0.6, 0.4], [0.1, 0.9]], centered=False) for version in ("", "V2")),
    *(glimpse(version, [[1.5, 2.5], [-3.5, 0.5]], normalized=False) for version in ("", "V2")),
    case("DrawBoundingBoxes", dict(images=rand(2, 6, 5, 3), boxes=SQUARES), **BEYOND),
    case("DrawBoundingBoxesV2", dict(images=rand(2, 6, 5, 3), boxes=SQUARES, colors=rand(2, 3, dtype="f")), **BEYOND),
    case("DrawBoundingBoxesV2", dict(images=rand(2, 6, 5, 4), boxes=SQUARES, colors=rand(1, 4, dtype="f")), **BEYOND),
    case("RGBToHSV", dict(images=rand(2, 4, 3, lo=0.1, hi=0.9))),
    colours("HSVToRGB", HUES, "hbfd", "hues"),
    case("AdjustContrastv2", dict(images=rand(2, 3, 4, 3), contrast_factor=rand(lo=0.5, hi=2)), **BEYOND),
    case("AdjustContrastv2", dict(images=rand(3, 2, 1), contrast_factor=np.float32(-1.5)), **BEYOND),
    *(
        colours("AdjustHue", COLOURS, "f", f"delta={delta}", delta=rand(lo=delta, hi=delta))
        for delta in (0.02, -0.3, 1.17)
    ),
    *(
        colours("AdjustSaturation", COLOURS, "f", f"scale={scale}", scale=rand(lo=scale, hi=scale))
        for scale in (0.7, 1.7, -0.5)
    ),
]
