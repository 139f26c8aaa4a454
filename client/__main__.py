"""`python -m fedmore.client` is the program `client`."""

from fedmore.client.cli.main import main

if __name__ == "__main__":
    main()
