"""Maps the three top-level folders into the one package `lexbeam`.

Nothing called `models`, `transforms` or `pipeline` lands on a user's import path:
they are `lexbeam.models`, `lexbeam.transforms` and `lexbeam.pipeline`.
"""

from setuptools import find_packages, setup

FOLDERS = ("models", "transforms", "pipeline")


def mapped_packages() -> list[str]:
    """Every folder and its sub-packages under their `lexbeam.` names."""
    packages = []
    for folder in FOLDERS:
        packages.append(f"lexbeam.{folder}")
        packages += [f"lexbeam.{folder}.{name}" for name in find_packages(folder)]
    return packages


setup(
    packages=mapped_packages(),
    package_dir={f"lexbeam.{folder}": folder for folder in FOLDERS},
)
