"""`python -m fedmore.coordinator` is the program `coordinator`."""

from fedmore.coordinator.cli.main import main

if __name__ == "__main__":
    main()
