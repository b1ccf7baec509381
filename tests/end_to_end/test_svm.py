"""The judge itself: it knows real digits, and tells noise and copies from them."""

import importlib.util
from pathlib import Path

import numpy as np

spec = importlib.util.spec_from_file_location("svm", Path(__file__).with_name("svm.py"))
svm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(svm)


def to_images(pixels):
    return np.round(pixels * 255).astype(np.uint8).reshape(-1, 8, 8, 1)


def test_real_digits_pass_and_noise_and_copies_do_not():
    x, y = svm.real("test")
    held_out = svm.judge(to_images(x), y)
    assert held_out["svm"] >= 0.98
    assert held_out["agreement"] >= 0.98
    assert abs(held_out["spread"] - 1) < 0.03 and abs(held_out["nearest"] - 1) < 0.1
    noise = np.random.default_rng(0).integers(0, 256, (500, 8, 8, 1), np.uint8)
    assert svm.judge(noise, np.arange(500) % 10)["agreement"] < 0.3
    train, labels = svm.real("train")
    assert svm.judge(to_images(train[:200]), labels[:200])["nearest"] < 0.05
