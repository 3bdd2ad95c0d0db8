"""The C kernel, which is optional: without a compiler everything works in pure Python."""

from setuptools import Extension, setup

KERNEL = "src/cairn/hashing/kernel"

setup(
    ext_modules=[
        Extension(
            "cairn.hashing._lanes",
            [f"{KERNEL}/module.c", f"{KERNEL}/constants.c"],
            depends=[
                f"{KERNEL}/{name}.h"
                for name in ("judge", "kernel", "lanes", "messages", "nonce", "rounds", "screen", "search", "sha")
            ],
            extra_compile_args=["-std=gnu11", "-O3", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,
        )
    ]
)
