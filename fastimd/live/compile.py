"""Compiles ``protocol.proto``: run it after a change there, with ``grpcio-tools`` installed.

What comes of it is a descriptor and no Python code, which any version of the ``protobuf`` package
reads.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCE, COMPILED = HERE / "protocol.proto", HERE / "protocol.binpb"


def compile_protocol(target: Path = COMPILED) -> None:
    """Write the descriptor.

    Raises:
        subprocess.CalledProcessError: the source has a mistake, or ``grpcio-tools`` is missing.
    """
    compiler = [sys.executable, "-m", "grpc_tools.protoc"]
    where = [f"--proto_path={HERE}", f"--descriptor_set_out={target}", SOURCE.name]
    subprocess.run([*compiler, *where], check=True)  # noqa: S603 - our own arguments


if __name__ == "__main__":
    compile_protocol()
