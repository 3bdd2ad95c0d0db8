"""The C parts, which are optional: without a compiler everything works in pure Python."""

from pathlib import Path
from typing import Any

from setuptools import Extension, setup

KERNEL = Path("src/cairn/hashing/kernel")
OPTIONS: dict[str, Any] = {
    "extra_compile_args": ["-std=gnu11", "-O3", "-g0", "-Wall", "-Wextra"],
    "py_limited_api": True,
    "optional": True,
}

setup(
    ext_modules=[
        Extension(
            "cairn.hashing._lanes",
            sources=[str(KERNEL / "module.c"), str(KERNEL / "constants.c")],
            depends=sorted(map(str, KERNEL.glob("*.h"))),
            **OPTIONS,
        ),
        Extension("cairn._plain", sources=["src/cairn/_plain.c"], **OPTIONS),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
