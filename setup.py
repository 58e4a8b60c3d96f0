"""Puts configs/ into the wheel as motfm_jax/configs; everything else is in pyproject.toml.

In a checkout, editable installs included, the folder stays beside the package.
"""

from setuptools import find_namespace_packages, find_packages, setup

configs = ["motfm_jax.configs"]
configs += [f"motfm_jax.configs.{name}" for name in find_namespace_packages("configs")]
setup(
    packages=find_packages(include=["motfm_jax*"]) + configs,
    package_dir={"motfm_jax.configs": "configs"},
)
