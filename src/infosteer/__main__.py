"""``python -m infosteer``, also under ``accelerate launch -m infosteer``."""

from __future__ import annotations

from infosteer.cli.main import main

if __name__ == "__main__":
    main()
