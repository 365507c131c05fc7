"""`srlm side-by-side models=[NAME,...]`: `srlm evaluate suite=[answers]` with greedy answers, some in the terminal."""

from __future__ import annotations

from srlm.cli.application import application
from srlm.cli.evaluate.main import run

main = application("side-by-side", run)

if __name__ == "__main__":
    main()
