"""The main of a process that a launched script has spawned: the script's own, on our ops."""

from .processes import main_of_spawned

if __name__ == "__mp_main__":
    globals().update(main_of_spawned())
