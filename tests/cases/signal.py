"""Fourier transforms and what is computed of them (csrc/rules/signal.cc)."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.harness import Case, case, rand

CUT = "Python takes the length of the input for that of the transform"
EMPTY = "Python pads by a negative number"
NONE = "Python has no gradient in three dimensions"
NO_SOUND = "Python has no gradient of sound"
SHAPES = {1: (2, 5), 2: (2, 3, 4), 3: (2, 3, 2, 2)}


def fft(op: str, dims: int) -> Case:
    return case(op, dict(input=rand(*SHAPES[dims])))


def real(op: str, shape: tuple[int, ...], *length: int, **options: Any) -> Case:
    """Raw ops name the other dtype in an attr; here it follows from the input's."""
    inverse = op.startswith("I")

    def fn(x: Any, fft_length: Any) -> Any:
        other = {
            tf.float32: tf.complex64,
            tf.float64: tf.complex128,
            tf.complex64: tf.float32,
            tf.complex128: tf.float64,
        }[x.dtype]
        return getattr(tf.raw_ops, op)(input=x, fft_length=fft_length, **{"Treal" if inverse else "Tcomplex": other})

    args = dict(x=rand(*shape), fft_length=np.array(length, np.int32))
    return case(op, args, fn=fn, dtypes="cz" if inverse else "fd", **options)


CASES = [
    *(fft(f"{inverse}FFT{dims}", n) for inverse in ("", "I") for n, dims in [(1, ""), (2, "2D"), (3, "3D")]),
    real("RFFT", (2, 6), 6),
    real("RFFT", (5,), 5),
    real("RFFT", (2, 1), 1),
    real("RFFT", (2, 6), 4, python=False, why=CUT),
    real("RFFT", (2, 0), 4, python=False, why=EMPTY),
    real("RFFT2D", (3, 4), 3, 4),
    real("RFFT2D", (2, 2, 5), 2, 5),
    real("RFFT2D", (4, 5), 3, 4, python=False, why=CUT),
    real("RFFT3D", (2, 3, 2, 4), 3, 2, 4, python=False, why=NONE),
    real("IRFFT", (2, 4), 6),
    real("IRFFT", (3,), 5),
    real("IRFFT", (2, 5), 5, python=False, why=CUT),
    real("IRFFT", (2, 0), 4, python=False, why=EMPTY),
    real("IRFFT2D", (2, 3, 3), 3, 4),
    real("IRFFT2D", (3, 3), 3, 5),
    real("IRFFT2D", (4, 4), 3, 4, python=False, why=CUT),
    real("IRFFT3D", (2, 3, 2, 3), 3, 2, 4, python=False, why=NONE),
    *(
        case(
            "AudioSpectrogram",
            dict(input=rand(20, 2), window_size=size, stride=stride, magnitude_squared=squared),
            python=False,
            why=NO_SOUND,
        )
        for size, stride, squared in [(8, 4, True), (5, 3, True), (6, 2, False)]
    ),
    *(
        case(
            "Mfcc",
            dict(
                spectrogram=rand(2, 3, 17, lo=0.5, hi=1.5),
                sample_rate=16000,
                lower_frequency_limit=low,
                upper_frequency_limit=high,
                filterbank_channel_count=bands,
                dct_coefficient_count=features,
            ),
            python=False,
            why=NO_SOUND,
        )
        for low, high, bands, features in [(20, 4000, 6, 4), (600, 7000, 4, 4), (20, 9000, 5, 2)]
    ),
]
