"""``python -m libcnm.cli`` is ``cnm``, with whichever interpreter runs it."""

from __future__ import annotations

from libcnm.cli.main import main

if __name__ == "__main__":
    main()
