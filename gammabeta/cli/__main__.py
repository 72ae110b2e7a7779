"""`python -P -m gammabeta.cli` is the command `gammabeta`."""

from gammabeta.cli.main import main

if __name__ == "__main__":
    main()
