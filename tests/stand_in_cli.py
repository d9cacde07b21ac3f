"""`sightflow` with the stand-in in place of Florence-2, for tests that need a process to kill."""

from blocks import systems

systems.SYSTEMS = {"florence-2": "tests.stand_in_model:StandIn"}

if __name__ == "__main__":
    from flows.cli import main

    main()
