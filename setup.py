"""The C kernel, which is optional: without a compiler everything works in pure Python."""

from pathlib import Path

from setuptools import Extension, setup

KERNEL = Path("src/cairn/hashing/kernel")

setup(
    ext_modules=[
        Extension(
            "cairn.hashing._lanes",
            sources=[str(KERNEL / "module.c"), str(KERNEL / "constants.c")],
            depends=sorted(map(str, KERNEL.glob("*.h"))),
            extra_compile_args=["-std=gnu11", "-O3", "-g0", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
