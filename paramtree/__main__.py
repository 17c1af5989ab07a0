"""What `python -m paramtree` runs."""

from paramtree.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
