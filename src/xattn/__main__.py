"""`python -m xattn`: the command line."""

from xattn.cli.main import main

if __name__ == "__main__":
    main()
